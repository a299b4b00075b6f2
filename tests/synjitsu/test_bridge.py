"""A bridge that comes, breaks or goes while Synjitsu runs, and what an operator reads about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Leaves, List, ListVms, VmList, VmStateChanged, VmStatus
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import to_tree
from jitsu_synjitsu.main import start
from jitsu_synjitsu.rules.events import SendFrame, WriteEntry
from jitsu_synjitsu.wires.bridge import LOG_LOSS_S
from jitsu_synjitsu.wires.flooding import TWICE
from jitsu_synjitsu.wires.ledger import read_ports
from tests.support.clock import VirtualClock
from tests.support.frames import VM_MAC, arp, tcp
from tests.support.memory_lan import MemoryLan
from tests.support.synjitsu import PlayedOutlet, made_bridge
from tests.support.synjitsu_host import VM, SynjitsuHost, synjitsu_world
from tests.support.world import settled

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.wires.lan import Taken
    from tests.support.memory_lan import MemoryWire


async def test_a_bridge_that_cannot_be_listened_on_is_tried_again_and_is_followed_as_soon_as_it_can(
    host: SynjitsuHost,
) -> None:
    host.lan.refused["br0"] = "it needs CAP_NET_RAW"
    host.configured(VM)
    host.state(VmState.READY)
    (bridge,) = host.server.bridges
    assert not bridge.activity.running()
    assert "cannot listen on the bridge br0: it needs CAP_NET_RAW" in host.notes()
    del host.lan.refused["br0"]
    host.server.bridges.look()
    assert bridge.wire is not None
    assert bridge.activity.running() == {VM_MAC}, "the VMs that were there before are watched now"
    assert "CAP_NET_RAW" not in host.notes()


def test_a_bridge_that_goes_while_it_is_attached_to_is_not_there_and_is_no_fault(tmp_path: Path) -> None:
    class Leaving(MemoryLan):
        def wire(self, bridge: str, taken: Taken) -> MemoryWire:
            self.remove(bridge)
            return super().wire(bridge, taken)

    lan = Leaving(VirtualClock())
    lan.add("br0")
    bridge = made_bridge(tmp_path, lan=lan)
    bridge.look()
    assert bridge.wire is None
    assert bridge.listens_since == float("inf")


async def test_a_socket_that_breaks_is_made_again_and_what_it_could_not_send_stays_counted(
    host: SynjitsuHost,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.configured(VM)
    host.state(VmState.READY)
    (bridge,) = host.server.bridges
    wire: Any = bridge.wire
    wire.unsent["ENOBUFS"] += 3
    wire.is_broken = True
    host.server.bridges.look()
    assert bridge.wire not in (None, wire)
    assert bridge.unsent() == {"ENOBUFS": 3}
    assert host.bridge.wires == [bridge.wire]
    assert "the bridge is gone" not in capfd.readouterr().out, "it is only the socket"


async def test_loss_of_frames_is_logged_once_a_minute_and_noted_for_as_long_as_it_matters(
    host: SynjitsuHost,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.configured(VM)
    host.state(VmState.READY)
    for later, logged in ((0.0, 1), (1.0, 0), (LOG_LOSS_S, 1)):
        await host.world.advance(later)
        host.bridge.wires[0].loses = True
        host.server.bridges.look()
        assert capfd.readouterr().out.count("are lost: connections may be open unseen") == logged
    assert "frames on br0 were lost 0 s ago" in host.notes()
    await host.world.advance(VM.max_idle_connection)
    assert "were lost" not in host.notes()


async def test_the_warnings_of_a_host_and_of_a_socket_are_shown(
    host: SynjitsuHost,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.lan.found_warnings = ["bridges pass their frames to iptables"]
    host.configured(VM)
    host.state(VmState.READY)
    assert "bridges pass their frames to iptables" in capfd.readouterr().out
    host.bridge.static = {VM_MAC}
    host.bridge.table[VM_MAC] = host.client.index
    host.arm()
    assert f"br0 has a static entry for {VM_MAC.hex(':')}: {TWICE}" in host.notes()


async def test_a_guest_that_did_not_appear_at_its_address_is_named_with_the_one_that_it_announces(
    host: SynjitsuHost,
) -> None:
    host.configured(VM)
    host.arm()
    host.boots()
    await host.world.advance(0.01)
    host.tap.send(arp(1, VM_MAC, b"\x0a\0\0\x63", b"\x0a\0\0\x63"))
    await host.world.advance(0.01)
    await host.world.advance(61.0)
    assert "10.0.0.1 did not appear when its VM booted: it announces 10.0.0.99" in host.notes()


def test_what_the_rules_want_of_xenstore_and_of_a_bridge_that_is_not_there(tmp_path: Path) -> None:
    outlet = PlayedOutlet()
    bridge = made_bridge(tmp_path, outlet=outlet)
    bridge.perform([WriteEntry("v", {"/ip/a": "1"}), SendFrame(tcp(1, 80), "replay")])
    assert outlet.asked == [("write", "v", {"/ip/a": "1"})]
    assert bridge.counts.sent == {"replay": 1}
    assert bridge.unsent() == {}
    bridge.look_now()
    bridge.look_around()
    assert bridge.notes() == []


async def test_at_its_end_synjitsu_leaves_no_port_shut(host: SynjitsuHost, tmp_path: Path) -> None:
    await host.server.start()
    host.arm()
    host.boots()
    assert [station.floods for station in host.bridge.stations.values()] == [True, False]
    await host.world.stop()
    assert host.tap.floods
    assert not (tmp_path / "synjitsu.ports").exists()


async def test_ports_that_an_earlier_synjitsu_left_shut_are_opened_at_the_start(
    host: SynjitsuHost,
    tmp_path: Path,
) -> None:
    host.arm()
    host.boots()
    assert read_ports(tmp_path / "synjitsu.ports") == {"vnet0": host.tap.index}
    second = SynjitsuHost(host.world)
    second.boots()
    second.tap.floods = False
    assert second.tap.index == host.tap.index
    await second.server.start()
    assert second.tap.floods


async def test_with_several_bridges_or_none_a_vm_must_name_its_own(tmp_path: Path) -> None:
    async with synjitsu_world(tmp_path, synjitsu__bridges="br0,br1") as world:
        several = SynjitsuHost(world)
        several.lan.add("br1")
        several.server.bridges.look()
        with pytest.raises(Unavailable, match="Synjitsu has several bridges"):
            several.arm(bridge="")
        with pytest.raises(Unavailable, match="Synjitsu does not listen on br7"):
            several.arm(bridge="br7")
        several.lan.remove("br1")
        several.server.bridges.look()
        with pytest.raises(Unavailable, match="the bridge br1 is not there"):
            several.arm(bridge="br1")
        several.arm(bridge="br0")
    async with synjitsu_world(tmp_path, synjitsu__bridges="none") as world:
        with pytest.raises(Unavailable, match="Synjitsu has no bridge"):
            SynjitsuHost(world).arm()


@pytest.mark.parametrize(
    ("settings", "first", "then"),
    [({"synjitsu__bridges": "br0"}, "store vm", "vmd vm"), ({"hypervisor__kind": "loopback"}, "vmd vm", "store vm")],
    ids=["bridges are configured", "guests are on loopback"],
)
async def test_what_is_followed_first(settings: dict[str, str], first: str, then: str, tmp_path: Path) -> None:
    """On loopback the configuration of ten thousand VMs is not read before one of them is on a bridge."""
    on_br0 = VmStatus(uuid=VM.uuid, name="www", state=VmState.READY, bridge="br0")
    async with synjitsu_world(tmp_path, **settings) as world:
        world.answers[ListVms] = lambda _: VmList(epoch="e", number=1, vms=[])
        world.answers[List] = lambda _: Leaves(epoch="e", number=1, leaves=to_tree(VM), serial=1, commit="")
        lan = MemoryLan(world.clock)
        lan.add("br0")
        await start(world, lan)
        await settled()
        if then == "store vm":
            assert list(world.followed) == [first]
            world.followed[first].publish(VmStateChanged(vm=on_br0))
            await settled()
        assert list(world.followed) == [first, then]
