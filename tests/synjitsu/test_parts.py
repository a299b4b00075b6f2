"""The parts of a Synjitsu that only pass on: how it starts and ends, what an operator sees, calls that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from jitsu_protocol.messages import Arm, Disarm, Done, HandedOver, Report, Summon, VmStatus
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_synjitsu.main import start
from jitsu_synjitsu.wires.focus import FOCUS_S
from jitsu_synjitsu.wires.status import SynjitsuStatus
from tests.support.frames import RST, V4, VM_MAC, arp, tcp
from tests.support.memory_lan import MemoryLan
from tests.support.synjitsu import without_tokens
from tests.support.synjitsu_host import VM, SynjitsuHost, synjitsu_world
from tests.support.world import settled

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_without_bridges_it_serves_and_tells_the_reaper_that_it_reports_nothing(tmp_path: Path) -> None:
    async with synjitsu_world(tmp_path, synjitsu__bridges="none") as world:
        await start(world, MemoryLan(world.clock))
        await settled()
        assert (set(world.handlers), world.is_ready) == ({Arm, Disarm}, True)
        assert [call.leaving for call in world.client("reaper").asked if isinstance(call, Report)] == [True]
        (note,) = world.notes()
        assert note.startswith("synjitsu.bridges is none: boots are hidden by delay only")
        await world.stop()


async def test_what_it_counts_is_offered_as_metrics(host: SynjitsuHost) -> None:
    SynjitsuStatus(host.server, host.lan).publish(host.world.metrics)
    host.arm()
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.05)
    lines = generate_latest(host.world.metrics.registry).decode().splitlines()
    shown = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    assert shown["jitsu_synjitsu_armed_addresses"] == 1
    assert shown["jitsu_synjitsu_kept_packets"] == 1
    assert shown['jitsu_synjitsu_sent_frames_total{what="announcement"}'] >= 1
    assert shown["jitsu_synjitsu_connections"] == shown["jitsu_synjitsu_floods_total"] == 0
    assert shown["jitsu_synjitsu_expired_connections_total"] == shown["jitsu_synjitsu_unwoken_packets_total"] == 0


async def test_a_vm_that_was_armed_when_vmd_died_is_summoned_and_refused_if_that_fails(host: SynjitsuHost) -> None:
    host.configured(VM)
    host.state(VmState.OFF)
    host.arm()
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.01)
    host.vmd.refuses = Unavailable("it does not start")
    host.follower.all_states([VmStatus(uuid=VM.uuid, name="www", state=VmState.OFF, bridge="br0")], "")
    await host.world.advance(0.01)
    await host.world.advance(0.01)
    assert Summon(vm=VM.uuid, trigger="traffic") in without_tokens(host.vmd.asked)
    assert any(seen.flags & RST for seen in host.got), "its client is told"


async def test_a_vmd_that_does_not_answer_is_logged(host: SynjitsuHost, capfd: pytest.CaptureFixture[str]) -> None:
    host.vmd.refuses = Unavailable("vmd is away")
    host.configured(VM)
    host.arm()
    host.boots()
    await host.world.advance(0.01)
    host.tap.send(arp(1, VM_MAC, V4[1], V4[1]))
    await host.world.advance(0.01)
    assert host.vmd.asked == [HandedOver(vm=VM.uuid)]
    assert "cannot report to vmd that the guest is there" in capfd.readouterr().out
    host.state(VmState.DRAINING, drain="d")
    await host.world.advance(FOCUS_S)
    host.client.send(tcp(40_000, 80))
    await host.world.advance(0.1)
    assert without_tokens(host.vmd.asked[1:]) == [Summon(vm=VM.uuid, trigger="traffic")]


async def test_rivals_are_warned_of_and_a_mac_address_of_a_vm_that_is_off_is_noticed_once(
    host: SynjitsuHost, capfd: pytest.CaptureFixture[str]
) -> None:
    stranger = host.bridge.plug("stranger", lambda _: None)
    stranger.send(arp(1, VM_MAC, b"\x0a\0\0\x55", b"\x0a\0\0\x55"))
    await host.world.advance(0.01)
    host.arm()
    host.server.disarm(Disarm(vm=VM.uuid, outcome="failed"))
    await host.world.advance(5.0)
    host.arm()
    rival = b"\x02\0\0\0\0\x66"
    host.server.interfaces.name(VM.uuid, "vnet0")
    stranger.send(arp(2, rival, b"\x0a\0\0\1", b"\x0a\0\0\1"))
    await host.world.advance(0.1)
    (bridge,) = host.server.bridges
    bridge.look_around()
    said = capfd.readouterr().out
    assert said.count("has its MAC address on the bridge") == 1
    assert "another machine claims the address of a VM" in said
    assert f"10.0.0.1 is held by {rival.hex(':')} too" in host.notes()
    assert host.server.disarm(Disarm(vm="nobody", outcome="ready")) == Done()
