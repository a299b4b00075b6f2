"""A whole Synjitsu on bridges in memory and on virtual time: its rpc, a bridge, a client and a guest."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Arm, Done, HandedOver, Report, Summon, Summoned, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.server import SynjitsuServer
from jitsu_synjitsu.wires.status import SynjitsuStatus
from tests.support.frames import ACK, SYN, VM_MAC, answer_to
from tests.support.memory_lan import MemoryLan
from tests.support.vms import make_vm
from tests.support.world import PlayedWorld, played_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_protocol.model.states import VmState

VM = make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"), nic="br0", use_synjitsu="true")


@asynccontextmanager
async def synjitsu_world(directory: Path, **settings: str) -> AsyncIterator[PlayedWorld]:
    """Make the world of a Synjitsu; vmd and the reaper do and note whatever it asks them for."""
    async with played_world("synjitsu", bus__runtime_dir=str(directory), **settings) as world:
        world.answers |= {Summon: lambda _: Summoned(), HandedOver: lambda _: Done(), Report: lambda _: Done()}
        yield world


class SynjitsuHost:
    """A host with the bridge br0, on which there is a client; the guest's tap comes when it boots."""

    def __init__(self, world: PlayedWorld) -> None:
        self.world = world
        self.vmd, self.reaper = world.client("vmd"), world.client("reaper")
        self.lan = MemoryLan(world.clock)
        self.got: list[frames.Seen] = []
        """What the client has received."""
        self.guest_got: list[bytes] = []
        self.bridge = self.lan.add("br0")
        self.client = self.bridge.plug("client", lambda frame: self.got.append(frames.read(frame)))
        self.server = SynjitsuServer(world, self.lan)
        self.follower = Follower(world, self.server.bridges, self.server.watcher)

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
