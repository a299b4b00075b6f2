"""VMs that vmd's key arms and that nobody has configured: what is kept of them has an end (G9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Arm, Done
from jitsu_protocol.model.errors import Unavailable
from jitsu_synjitsu.rules import arming as rules
from jitsu_synjitsu.rules.arming import Arming
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.wires import bridges
from jitsu_synjitsu.wires import server as wires
from jitsu_synjitsu.wires.server import SynjitsuServer
from tests.support.process import running_process
from tests.support.synjitsu import wake_limit

if TYPE_CHECKING:
    from pathlib import Path


class PlayedPorts:
    def named(self, vm: str, interface: str) -> None:
        pass

    def boots(self, vm: str, mac: bytes) -> None:
        pass

    def settled(self, vm: str) -> None:
        pass


class PlayedBridge:
    """A bridge that is there, and on which nothing happens."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name
        self.wire: object | None = object()
        self.arming = Arming(Kept(10, 50), wake_limit())
        self.ports = PlayedPorts()

    def look(self) -> None:
        pass

    def focus(self) -> None:
        pass

    def send(self, frame: bytes, what: str) -> None:
        pass

    def knows_elsewhere(self, mac: bytes) -> bool:
        return False


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
        bridge.arming.passed(1e12)
        bridge.arming.passed(2e12)


@pytest.mark.usefixtures("played")
async def test_g9_only_so_many_vms_that_are_not_configured_are_armed_at_once(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process)
        for number in range(10):
            assert server.arm(request(number)) == Done()
        with pytest.raises(Unavailable, match="10 VMs are armed that are not configured"):
            server.arm(request(10))
        assert server.arm(request(3)) == Done(), "one that is armed already is armed again"
        server.is_configured = "stranger-11".__eq__
        assert server.arm(request(11)) == Done(), "and so is one that is configured"
        forget_all(server)
        assert server.arm(request(12)) == Done()


@pytest.mark.usefixtures("played")
async def test_g9_nothing_is_kept_of_vms_that_were_armed_and_never_configured(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process)
        for number in range(200):
            server.arm(request(number))
            forget_all(server)
        assert len(server.interfaces) <= 10
        assert sum(len(bridge.arming.missing()) for bridge in server.bridges) <= 20


@pytest.mark.usefixtures("played")
async def test_g9_bridges_that_are_not_there_are_wanted_only_up_to_a_limit(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process)
        for number in range(5):
            server.arm(request(1, bridge=f"br{number}"))
        with pytest.raises(Unavailable, match="Synjitsu does not listen on br9"):
            server.arm(request(1, bridge="br9"))
        assert len(server.bridges) == 5


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bridges that are there whatever their names are, and small limits."""
    monkeypatch.setattr(wires, "Bridge", PlayedBridge)
    monkeypatch.setattr(bridges, "_is_bridge", lambda _: True)
    monkeypatch.setattr(wires, "MAX_STRANGERS", 10)
    monkeypatch.setattr(rules, "MAX_MISSING", 20)
    monkeypatch.setattr(bridges, "MAX_FOUND", 5)
