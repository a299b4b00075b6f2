"""On which bridges Synjitsu listens, and what it says of those on which it cannot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_synjitsu.wires.bridges import Bridges
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.reports import Reports
from jitsu_synjitsu.wires.server import SynjitsuServer
from tests.support.clock import VirtualClock
from tests.support.memory_lan import MemoryLan
from tests.support.process import running_process
from tests.support.synjitsu import notes_of
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

VM = make_vm("www", "10.0.0.1")


class PlayedBridge:
    """A bridge that is there from when the test says so."""

    wire: object | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.fault = ""

    def look(self) -> None:
        if self.fault:
            raise SetupFault(self.fault)
        self.wire = object()


def made(configured: list[str], lan: MemoryLan | None = None) -> Bridges:
    return Bridges(configured, lan or MemoryLan(VirtualClock()), lambda name: cast("Any", PlayedBridge(name)))


@pytest.fixture
def there() -> MemoryLan:
    """Return the bridges that this host has, for the test to change."""
    return MemoryLan(VirtualClock())


async def test_without_any_configured_it_listens_where_vmd_finds_vms(there: MemoryLan) -> None:
    there.add("br0")
    found, attached = made([], there), list[Any]()
    found.attached = attached.append
    assert not found.are_there.is_set()
    found.want("br0")
    found.want("br0")
    assert [bridge.name for bridge in found] == ["br0"]
    assert attached == [], "its VMs are only heard of now"
    assert found.of("br0").name == "br0"
    assert found.are_there.is_set()
    with pytest.raises(Unavailable, match="vmd does not know its bridge"):
        found.of("")


async def test_a_bridge_that_comes_later_is_told_of_when_it_is_there(there: MemoryLan) -> None:
    found, attached = made([], there), list[Any]()
    found.attached = attached.append
    found.want("br0")
    with pytest.raises(Unavailable, match="br0 is not a bridge of this host"):
        found.of("br0")
    found.look()
    assert attached == []
    there.add("br0")
    found.look()
    assert [bridge.name for bridge in attached] == ["br0"]


async def test_what_it_may_not_listen_on_is_a_reason_if_found_and_ends_it_if_configured(there: MemoryLan) -> None:
    there.add("br0")
    for configured in ([], ["br0"]):
        tried = made(configured, there)
        tried.want("br0")
        (bridge,) = cast("list[PlayedBridge]", list(tried))
        bridge.fault, bridge.wire = "it needs CAP_NET_RAW", None
        if configured:
            with pytest.raises(SetupFault, match="CAP_NET_RAW"):
                tried.look()
            bridge.fault = ""
            tried.look()
            bridge.fault, bridge.wire = "no descriptor is left", None
        tried.look()
        with pytest.raises(Unavailable, match="no descriptor is left" if configured else "CAP_NET_RAW"):
            tried.of("br0")


async def test_what_is_configured_is_all_and_none_is_none() -> None:
    configured, none = made(["br0"]), made(["none"])
    for each in (configured, none):
        each.want("br7")
    assert [bridge.name for bridge in configured] == ["br0"]
    assert (len(none), none.is_off, configured.is_off) == (0, True, False)


@pytest.mark.wires
async def test_status_names_each_vm_that_runs_on_a_bridge_that_cannot_be_watched(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        follower.configured([VmChanged(None, VM)])
        follower.state(VmStatus(uuid=VM.uuid, name="www", state=VmState.READY, bridge="br-not-here"), gone=False)
        (note,) = [note for note in notes_of(server) if "open connections do not keep" in note]
        assert note.startswith("open connections do not keep 1 VMs up (www): br-not-here is not a bridge of this host")


@pytest.mark.wires
async def test_g8_one_that_has_just_started_does_not_say_that_it_sees_no_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    async def leave(_: Reports) -> None:
        left.append(True)

    monkeypatch.setattr(Reports, "leave", leave)
    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        reports = asyncio.ensure_future(Reports(process, server.bridges, follower, server.watcher, server.askers).run())
        await asyncio.sleep(0)
        assert left == []
        follower.all_states([], "")
        async with asyncio.timeout(1):
            while not left:
                await asyncio.sleep(0)
        reports.cancel()
