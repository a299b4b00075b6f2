"""A whole Synjitsu on bridges in memory and on virtual time: its rpc, a bridge, a client and a guest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Arm, Disarm, Done, HandedOver, Report, Summon, VmStatus
from jitsu_protocol.model.errors import BadRequest, Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.settings.load import load
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.wires.focus import FOCUS_S
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.reports import Reports
from jitsu_synjitsu.wires.server import SynjitsuServer
from jitsu_synjitsu.wires.status import SynjitsuStatus
from tests.support.clock import VirtualClock
from tests.support.frames import ACK, CLIENT_MAC, RST, SYN, V4, VM_MAC, answer_to, arp, tcp, udp
from tests.support.memory_lan import MemoryLan
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from jitsu_protocol.messages import Message, Request

VM = make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", use_synjitsu="true")
WAKES = make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", wake_on_traffic="true")


class PlayedWorld:
    """As much of a world as Synjitsu needs; calls are noted, and answered with Done or with `refuses`."""

    service, host = "synjitsu", ""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock(100.0)
        self.settings = load(None, {}, {"bus.runtime_dir": str(directory)})
        self.metrics = Metrics("synjitsu")
        self.calls: list[Request] = []
        self.refuses: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def client(self, owner: str, host: str = "") -> PlayedWorld:
        return self

    async def call(self, request: Request, reply: type[Message], timeout: float) -> Message:
        self.calls.append(request)
        if self.refuses is not None:
            raise self.refuses
        return reply.model_construct()

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        self._tasks.append(asyncio.get_running_loop().create_task(work))
        return self._tasks[-1]

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(10):
            await asyncio.sleep(0)


@dataclass
class Host:
    """A host with the bridge br0, on which there is a client; the guest's tap comes when it boots."""

    world: PlayedWorld
    lan: MemoryLan = field(init=False)
    server: SynjitsuServer = field(init=False)
    got: list[frames.Seen] = field(default_factory=list)
    guest_got: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lan = MemoryLan(self.world.clock)
        self.bridge = self.lan.add("br0")
        self.client = self.bridge.plug("client", lambda frame: self.got.append(frames.read(frame)))
        self.server = SynjitsuServer(self.world, self.lan)  # type: ignore[arg-type]
        self.follower = Follower(self.world, self.server.bridges, self.server.watcher)  # type: ignore[arg-type]

    def configured(self, vm: Any) -> None:
        self.follower.configured([VmChanged(None, vm)])

    def state(self, state: VmState, **more: Any) -> None:
        status = {"uuid": VM.uuid, "name": "www", "state": state, "bridge": "br0"}
        self.follower.state(VmStatus.model_validate(status | more), gone=False)

    def arm(self, **more: Any) -> None:
        request = {"vm": VM.uuid, "addresses": ["10.0.0.1"], "mac": VM_MAC.hex(":"), "bridge": "br0", "limit_s": 60.0}
        assert self.server.arm(Arm.model_validate(request | more)) == Done()

    def boots(self) -> None:
        """Let the guest's tap join the bridge; the guest answers each SYN that it is sent."""
        self.tap = self.bridge.plug("vnet0", self._guest, b"\xfe" + VM_MAC[1:])

    def _guest(self, frame: bytes) -> None:
        self.guest_got.append(frame)
        seen = frames.read(frame)
        if seen.kind is Kind.TCP and seen.flags == SYN:
            self.tap.send(answer_to(frame, SYN | ACK))

    def notes(self) -> str:
        return "\n".join(SynjitsuStatus(self.server, self.lan).notes())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(PlayedWorld(tmp_path))


async def test_a_magic_packet_has_vmd_start_a_vm_that_is_off_once_a_second(host: Host) -> None:
    host.configured(make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", wake_on_lan="true"))
    packet = udp(40_000, 9, b"\xff" * 6 + VM_MAC * 16, to=b"\xff" * 6)
    host.state(VmState.READY)
    host.client.send(packet)
    await host.world.passes(1.0)
    assert host.world.calls == []
    host.state(VmState.OFF)
    for _ in range(3):
        host.client.send(packet)
    await host.world.passes(0.5)
    assert host.world.calls == [Summon(vm=VM.uuid, trigger="traffic")]
    host.world.refuses = Unavailable("there is no room")
    await host.world.passes(1.0)
    host.client.send(packet)
    await host.world.passes(1.0)
    assert len(host.world.calls) == 2


async def test_a_client_is_connected_when_the_guest_shows_itself_and_vmd_hears_of_it(host: Host) -> None:
    host.configured(VM)
    host.state(VmState.OFF)
    host.arm()
    host.client.send(arp(1, CLIENT_MAC, *V4))
    await host.world.passes(0.01)
    assert any(seen.kind is Kind.TELLS and seen.source == VM_MAC for seen in host.got), "Synjitsu answers"
    host.client.send(tcp(40_000, 80))
    host.boots()
    await host.world.passes(0.3)
    assert [frames.read(frame).kind for frame in host.guest_got if frame[:6] == VM_MAC] == [], "the port is shut"
    assert "holds 10.0.0.1" in host.notes()
    assert "1 packets kept" in host.notes()
    host.tap.send(arp(1, VM_MAC, V4[1], V4[1]))
    await host.world.passes(0.01)
    answers = [seen for seen in host.got if seen.kind is Kind.TCP and seen.target_port == 40_000]
    assert [seen.flags for seen in answers] == [SYN | ACK]
    assert HandedOver(vm=VM.uuid) in host.world.calls
    await host.world.passes(0.1)
    assert "holds no address" in host.notes()
    assert "1 replayed" in host.notes()
    assert all(station.floods for station in host.bridge.stations.values()), "the port is open again"


async def test_when_the_boot_fails_the_client_is_refused_at_once(host: Host) -> None:
    host.arm()
    host.client.send(tcp(40_000, 80))
    await host.world.passes(0.01)
    assert host.server.disarm(Disarm(vm=VM.uuid, outcome="failed")) == Done()
    await host.world.passes(0.01)
    assert [seen.flags & RST for seen in host.got if seen.kind is Kind.TCP] == [RST]
    assert "0 packets kept" in host.notes()


@pytest.mark.parametrize("refused", [False, True])
async def test_traffic_wakes_a_vm_that_is_off_or_is_refused_if_vmd_does_not_start_it(host: Host, refused: bool) -> None:
    host.configured(WAKES)
    host.state(VmState.OFF)
    host.world.refuses = Unavailable("no room") if refused else None
    host.client.send(tcp(40_000, 80))
    await host.world.passes(0.01)
    assert host.world.calls == [Summon(vm=VM.uuid, trigger="traffic")]
    await host.world.passes(0.01)
    refusals = [seen for seen in host.got if seen.kind is Kind.TCP and seen.flags & RST]
    assert len(refusals) == refused


async def test_a_packet_to_a_vm_that_drains_is_reported_to_vmd_at_once(host: Host) -> None:
    host.configured(VM)
    host.state(VmState.READY)
    host.state(VmState.DRAINING, drain="d")
    await host.world.passes(FOCUS_S)
    host.client.send(tcp(40_000, 80))
    await host.world.passes(0.1)
    assert Summon(vm=VM.uuid, trigger="traffic") in host.world.calls
    assert host.server.watcher.drains() == []


async def test_a_report_has_who_was_used_and_which_drains_are_honoured(host: Host) -> None:
    world: Any = host.world
    reports = Reports(world, host.server.bridges, host.follower, host.server.watcher)
    host.configured(VM)
    host.follower.all_states([VmStatus(uuid=VM.uuid, name="www", state=VmState.READY, bridge="br0")], "")
    host.follower.knows_vms.set()
    await reports.run()
    await host.world.passes(FOCUS_S)
    host.client.send(tcp(40_000, 80))
    await host.world.passes(1.1)
    host.state(VmState.DRAINING, drain="d")
    await host.world.passes(0.0)
    sent = [call for call in host.world.calls if isinstance(call, Report)]
    assert [use.vm for use in sent[1].uses] == [VM.uuid]
    assert [report.drains for report in sent] == [[], [], ["d"]]


async def test_frames_that_were_lost_and_a_bridge_that_goes_are_noticed(host: Host) -> None:
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


async def test_an_arm_that_makes_no_sense_is_refused(host: Host) -> None:
    with pytest.raises(BadRequest, match="cannot hold the addresses of the VM"):
        host.arm(mac="02:0")


async def test_a_paused_guest_finds_nothing_in_its_queue(host: Host) -> None:
    host.configured(VM)
    host.boots()
    host.state(VmState.READY, interface="vnet0")
    host.tap.send(arp(1, VM_MAC, V4[1], V4[1]))
    await host.world.passes(0.1)
    host.state(VmState.PAUSED, interface="vnet0")
    assert [station.floods for station in host.bridge.stations.values()] == [True, False]
    assert VM_MAC not in host.bridge.table
    host.client.send(tcp(40_000, 80))
    await host.world.passes(0.1)
    assert [frame for frame in host.guest_got if frame[:6] == VM_MAC] == []
    host.state(VmState.OFF)
    assert all(station.floods for station in host.bridge.stations.values())
