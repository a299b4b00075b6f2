"""A whole Synjitsu on bridges in memory and on virtual time: its rpc, a bridge, a client and a guest."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Disarm, Done, HandedOver, Report, Summon, VmStatus
from jitsu_protocol.model.errors import BadRequest, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.wires.focus import FOCUS_S
from jitsu_synjitsu.wires.reports import Reports
from tests.support.frames import ACK, CLIENT_MAC, RST, SYN, V4, VM_MAC, arp, tcp, udp
from tests.support.synjitsu import without_tokens
from tests.support.synjitsu_host import VM, SynjitsuHost
from tests.support.vms import make_vm

WAKES = make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", wake_on_traffic="true")


async def test_a_magic_packet_has_vmd_start_a_vm_that_is_off_once_a_second(host: SynjitsuHost) -> None:
    host.configured(make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", wake_on_lan="true"))
    packet = udp(40_000, 9, b"\xff" * 6 + VM_MAC * 16, to=b"\xff" * 6)
    host.state(VmState.READY)
    host.client.send(packet)
    await host.world.advance(1.0)
    assert host.vmd.asked == []
    host.state(VmState.OFF)
    for _ in range(3):
        host.client.send(packet)
    await host.world.advance(0.5)
    assert without_tokens(host.vmd.asked) == [Summon(vm=VM.uuid, trigger="traffic")]
    host.vmd.refuses = Unavailable("there is no room")
    await host.world.advance(1.0)
    host.client.send(packet)
    await host.world.advance(1.0)
    assert len(host.vmd.asked) == 2


async def test_a_client_is_connected_when_the_guest_shows_itself_and_vmd_hears_of_it(host: SynjitsuHost) -> None:
    host.configured(VM)
    host.state(VmState.OFF)
    host.arm()
    host.client.send(arp(1, CLIENT_MAC, *V4))
    await host.world.advance(0.01)
    assert any(seen.kind is Kind.TELLS and seen.source == VM_MAC for seen in host.got), "Synjitsu answers"
    host.client.send(tcp(40_000, 80))
    host.boots()
    await host.world.advance(0.3)
    assert [frames.read(frame).kind for frame in host.guest_got if frame[:6] == VM_MAC] == [], "the port is shut"
    assert "holds 10.0.0.1" in host.notes()
    assert "1 packets kept" in host.notes()
    host.tap.send(arp(1, VM_MAC, V4[1], V4[1]))
    await host.world.advance(0.01)
    answers = [seen for seen in host.got if seen.kind is Kind.TCP and seen.target_port == 40_000]
    assert [seen.flags for seen in answers] == [SYN | ACK]
    assert HandedOver(vm=VM.uuid) in host.vmd.asked
    await host.world.advance(0.1)
    assert "holds no address" in host.notes()
    assert "1 replayed" in host.notes()
    assert all(station.floods for station in host.bridge.stations.values()), "the port is open again"


async def test_when_the_boot_fails_the_client_is_refused_at_once(host: SynjitsuHost) -> None:
    host.arm()
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.01)
    assert host.server.disarm(Disarm(vm=VM.uuid, outcome="failed")) == Done()
    await host.world.advance(0.01)
    assert [seen.flags & RST for seen in host.got if seen.kind is Kind.TCP] == [RST]
    assert "0 packets kept" in host.notes()


@pytest.mark.parametrize("refused", [False, True])
async def test_traffic_wakes_a_vm_that_is_off_or_is_refused_if_vmd_does_not_start_it(
    host: SynjitsuHost,
    refused: bool,
) -> None:
    host.configured(WAKES)
    host.state(VmState.OFF)
    host.vmd.refuses = Unavailable("no room") if refused else None
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.01)
    assert without_tokens(host.vmd.asked) == [Summon(vm=VM.uuid, trigger="traffic")]
    await host.world.advance(0.01)
    refusals = [seen for seen in host.got if seen.kind is Kind.TCP and seen.flags & RST]
    assert len(refusals) == refused


async def test_a_packet_to_a_vm_that_drains_is_reported_to_vmd_at_once(host: SynjitsuHost) -> None:
    host.configured(VM)
    host.state(VmState.READY)
    host.state(VmState.DRAINING, drain="d")
    await host.world.advance(FOCUS_S)
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.1)
    assert Summon(vm=VM.uuid, trigger="traffic") in without_tokens(host.vmd.asked)
    assert host.server.watcher.drains() == []


async def test_a_report_has_who_was_used_and_which_drains_are_honoured(host: SynjitsuHost) -> None:
    reports = Reports(host.world, host.server.bridges, host.follower, host.server.watcher, host.server.askers)
    host.configured(VM)
    host.follower.all_states([VmStatus(uuid=VM.uuid, name="www", state=VmState.READY, bridge="br0")], "")
    host.follower.knows_vms.set()
    await reports.run()
    await host.world.advance(FOCUS_S)
    host.client.send(tcp(40_000, 80))
    await host.world.advance(1.1)
    host.state(VmState.DRAINING, drain="d")
    await host.world.advance(0.0)
    sent = [call for call in host.reaper.asked if isinstance(call, Report)]
    assert [use.vm for use in sent[1].uses] == [VM.uuid]
    assert [report.drains for report in sent] == [[], [], ["d"]]


async def test_frames_that_were_lost_and_a_bridge_that_goes_are_noticed(host: SynjitsuHost) -> None:
    host.configured(VM)
    host.state(VmState.READY)
    (bridge,) = host.server.bridges
    host.bridge.wires[0].loses = True
    host.server.bridges.look()
    assert "frames on br0 were lost" in host.notes()
    host.lan.remove("br0")
    host.server.bridges.look()
    assert bridge.wire is None
    assert "the bridge br0 is not there" in host.notes()
    with pytest.raises(Unavailable, match="br0 is not a bridge of this host"):
        host.arm()


async def test_an_arm_that_makes_no_sense_is_refused(host: SynjitsuHost) -> None:
    with pytest.raises(BadRequest, match="cannot hold the addresses of the VM"):
        host.arm(mac="02:0")


async def test_a_paused_guest_finds_nothing_in_its_queue(host: SynjitsuHost) -> None:
    host.configured(VM)
    host.boots()
    host.state(VmState.READY, interface="vnet0")
    host.tap.send(arp(1, VM_MAC, V4[1], V4[1]))
    await host.world.advance(0.1)
    host.state(VmState.PAUSED, interface="vnet0")
    assert [station.floods for station in host.bridge.stations.values()] == [True, False]
    assert VM_MAC not in host.bridge.table
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.1)
    assert [frame for frame in host.guest_got if frame[:6] == VM_MAC] == []
    host.state(VmState.OFF)
    assert all(station.floods for station in host.bridge.stations.values())
