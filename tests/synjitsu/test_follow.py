"""What Synjitsu says of VMs whose use it cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

import pytest

from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.memory import Memory
from jitsu_synjitsu.wires.outlet import VmdOutlet
from jitsu_synjitsu.wires.server import SynjitsuServer
from tests.support.memory_lan import MemoryLan
from tests.support.process import running_process
from tests.support.synjitsu import armed, notes_of
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.model.vm import VM


async def test_status_names_the_vms_that_run_and_that_cannot_be_watched(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-not-there") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        vms = [make_vm(name, f"10.0.0.{n}") for n, name in enumerate(("api", "www", "off"))]
        follower.configured([VmChanged(None, vm) for vm in vms])
        for vm in vms:
            state = VmState.OFF if vm.name == "off" else VmState.READY
            follower.state(VmStatus(uuid=vm.uuid, name=vm.name, state=state, bridge="br7"), gone=False)
        (note,) = [note for note in notes_of(server) if "open connections do not keep" in note]
        assert "2 VMs up (api, www): " in note
        assert "br7" in note


async def test_without_any_bridge_it_says_that_connections_keep_no_vm_up(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path) as process:
        (note,) = notes_of(SynjitsuServer(process, MemoryLan(process.clock)))
        assert "open connections do not keep VMs up" in note


async def test_a_report_looks_at_the_vms_that_drain_and_no_others(tmp_path: Path) -> None:
    class Watched(dict[str, VmStatus]):
        def values(self) -> Never:
            raise AssertionError("all VMs are looked at")

    async with running_process("synjitsu", tmp_path) as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower, watcher = Follower(process, server.bridges, server.watcher), server.watcher
        watcher.watchlist.states = Watched()
        api, www = make_vm("api", "10.0.0.1"), make_vm("www", "10.0.0.2")

        def says(vm: VM, drain: str, *, gone: bool = False) -> list[str]:
            state = VmState.DRAINING if drain else VmState.READY
            follower.state(VmStatus(uuid=vm.uuid, name=vm.name, state=state, drain=drain), gone=gone)
            return watcher.drains()

        assert says(api, "a") == ["a"]
        assert says(www, "w") == ["a", "w"]
        assert says(api, "") == ["w"]
        assert says(www, "w", gone=True) == []


async def test_g7_a_vm_that_vmd_had_armed_when_it_died_is_summoned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(VmdOutlet, "summon_again", lambda _, __, vm: asked.append(vm))
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-not-there") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        booting, off, ready = (make_vm(name, f"10.0.0.{n}") for n, name in enumerate(("armed", "off", "ready")))
        (bridge,) = server.bridges
        for vm in (booting, ready):
            armed(bridge.addresses, vm.uuid, [str(vm.addresses[0])], bytes.fromhex(vm.mac.replace(":", "")), 60.0, 0.0)
        states = [(booting, VmState.OFF), (off, VmState.OFF), (ready, VmState.READY)]
        statuses = [VmStatus(uuid=vm.uuid, name=vm.name, state=state) for vm, state in states]
        for status in statuses:
            follower.state(status, gone=False)
        assert asked == [], "an item of the feed may be older than the Arm"
        follower.all_states(statuses, "")
        assert asked == [booting.uuid]


@pytest.mark.parametrize("knows", [True, False])
async def test_g3_a_vm_that_was_started_shortly_before_synjitsu_may_have_connections(
    tmp_path: Path, knows: bool
) -> None:
    path, vm = tmp_path / "synjitsu.connections", make_vm("www", "10.0.0.1")
    connection = (b"\x0a\0\0\x09", 40_000, b"\x0a\0\0\1", 80)
    Memory(path, SYSTEM_CLOCK).save({vm.uuid: ([connection], False, [])} if knows else {})
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br0") as process:
        lan = MemoryLan(process.clock)
        lan.add("br0")
        server = SynjitsuServer(process, lan)
        server.bridges.look()
        (bridge,) = server.bridges
        follower = Follower(process, server.bridges, server.watcher)
        follower.configured([VmChanged(None, vm)])
        status = VmStatus(uuid=vm.uuid, name=vm.name, state=VmState.READY, bridge="br0", up_s=1.0)
        follower.state(status, gone=False)
        known = bridge.activity.vms[vm.uuid].known()
        assert known is not None
        assert known[:2] == (([connection], False) if knows else ([], True))
