"""VMs that vmd's key arms and that nobody has configured: what is kept of them has an end (G9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Arm, Done
from jitsu_protocol.model.errors import Unavailable
from jitsu_synjitsu.rules import missing as rules
from jitsu_synjitsu.wires import bridges
from jitsu_synjitsu.wires.server import SynjitsuServer
from tests.support.memory_lan import MemoryLan
from tests.support.process import running_process

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_runtime.service import RealWorld


def request(number: int, **more: object) -> Arm:
    made: dict[str, Any] = {
        "vm": f"stranger-{number}",
        "addresses": [f"10.9.{number // 200}.{number % 200 + 1}"],
        "mac": f"02:00:5e:00:{number // 250:02x}:{number % 250:02x}",
        "bridge": "br0",
        "interface": f"tap{number}",
        "limit_s": 60.0,
    }
    return Arm.model_validate(made | more)


def forget_all(server: SynjitsuServer) -> None:
    """Let the time pass until no boot is waited for any more."""
    for bridge in server.bridges:
        bridge.addresses.tick(1e12)
        bridge.addresses.tick(2e12)


async def test_g9_only_so_many_vms_that_are_not_configured_are_armed_at_once(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = made(process)
        for number in range(10):
            assert server.arm(request(number)) == Done()
        with pytest.raises(Unavailable, match="10 VMs are armed that are not configured"):
            server.arm(request(10))
        assert server.arm(request(3)) == Done(), "one that is armed already is armed again"
        server.strangers.configured = {"stranger-11"}
        assert server.arm(request(11)) == Done(), "and so is one that is configured"
        forget_all(server)
        assert server.arm(request(12)) == Done()


async def test_g9_nothing_is_kept_of_vms_that_were_armed_and_never_configured(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = made(process)
        for number in range(200):
            server.arm(request(number))
            forget_all(server)
        assert len(server.interfaces.by_vm) <= 10
        assert sum(len(bridge.addresses.missing.shown()) for bridge in server.bridges) <= 20


async def test_g9_bridges_that_are_not_there_are_wanted_only_up_to_a_limit(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = made(process)
        for number in range(5):
            server.arm(request(1, bridge=f"br{number}"))
        with pytest.raises(Unavailable, match="Synjitsu does not listen on br9"):
            server.arm(request(1, bridge="br9"))
        assert len(server.bridges) == 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the limits small."""
    monkeypatch.setattr(rules, "MAX_MISSING", 20)
    monkeypatch.setattr(bridges, "MAX_FOUND", 5)


def made(process: RealWorld) -> SynjitsuServer:
    """Return a Synjitsu on whose host there are ten bridges."""
    lan = MemoryLan(process.clock)
    for number in range(10):
        lan.add(f"br{number}")
    server = SynjitsuServer(process, lan)
    server.strangers.max_strangers = 10
    return server
