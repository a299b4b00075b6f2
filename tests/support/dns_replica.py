"""A whole dns replica in one test: no sockets, no bus, and a clock that the test moves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dns.message

from jitsu_dns.main import start
from jitsu_protocol.messages import Change, Committed, Leaves, VmList, VmStateChanged, VmStatus
from jitsu_protocol.model.vm import to_tree
from tests.support.dns_sockets import FakeSockets
from tests.support.world import PlayedPeer, PlayedWorld, played_world, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from jitsu_dns.wires.replica import Replica
    from jitsu_protocol.model.states import VmState
    from jitsu_protocol.model.vm import VM


class Serving:
    """A replica that serves, with what surrounds it."""

    def __init__(self, world: PlayedWorld, sockets: FakeSockets) -> None:
        self.world, self.sockets = world, sockets
        self.replica: Replica

    @property
    def store(self) -> PlayedPeer:
        return self.world.client("store")

    @property
    def reaper(self) -> PlayedPeer:
        return self.world.client("reaper")

    @property
    def vmd(self) -> PlayedPeer:
        return self.world.client("vmd")

    async def learn(self, *vms: VM, serial: int = 7) -> None:
        """Let the store report these VMs, and every vmd that it has none yet."""
        leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
        page = Leaves(leaves=leaves, commit="c1", epoch="e", number=0, serial=serial)
        await settled()
        while not self.world.followed["store vm"].synced.is_set():
            await self.store.answer(page)
        for peer in self.world.vmds().values():
            await peer.answer(VmList(vms=[], epoch="e", number=0))
        await settled()

    def commit(self, changes: Mapping[str, str | None], serial: int) -> None:
        """Let the store publish a commit."""
        body = Committed(
            commit=f"c{serial}",
            serial=serial,
            changes=[Change(path=path, value=value) for path, value in changes.items()],
        )
        self.world.followed["store vm"].publish(body)

    def state(self, vm: VM, state: VmState, *, drain: str = "", gone: bool = False) -> None:
        """Let vmd publish a VM's state."""
        status = VmStatus(uuid=vm.uuid, name=vm.name, state=state, drain=drain)
        self.world.followed[f"vmd vm {vm.host}".strip()].publish(VmStateChanged(vm=status, gone=gone))

    def ask(self, name: str, id: int = 1, *, udp: bool = True) -> None:
        query = dns.message.make_query(name, "A", use_edns=0, id=id)
        self.sockets.query(query.to_wire(), udp=udp)

    def answered(self) -> list[dns.message.Message]:
        """Return what was answered since the last time."""
        found = [dns.message.from_wire(data) for _, data in self.sockets.answers]
        self.sockets.answers.clear()
        return found


@asynccontextmanager
async def serving(
    directory: Path,
    *vms: VM,
    settings: Mapping[str, str] | None = None,
    learns: bool = True,
    address: str = "127.0.0.1",
) -> AsyncIterator[Serving]:
    """Start a replica with these settings (`{"dns.forward": "off"}`), which knows these VMs."""
    flags = {"dns.forward": "off", "bus.runtime_dir": str(directory), **(settings or {})}
    async with played_world("dns", **flags) as world:
        made = Serving(world, FakeSockets(address))
        starting = asyncio.ensure_future(start(world, made.sockets))
        if learns:
            await made.learn(*vms)
            made.replica = await starting
        yield made
        starting.cancel()
