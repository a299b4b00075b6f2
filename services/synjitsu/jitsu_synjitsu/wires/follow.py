"""Follows the store, which says how this host's VMs are configured, and vmd, which says in which states they are."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.model.inventory import on_host
from jitsu_runtime.bus.follow import follow_states, follow_vms
from jitsu_synjitsu.rules.values import check
from jitsu_synjitsu.rules.watchlist import HostStatesListed, HostVmsConfigured, StateReported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_runtime.world import World
    from jitsu_synjitsu.wires.bridges import Bridges
    from jitsu_synjitsu.wires.watcher import Watcher


class Follower:
    """All VMs of this host."""

    def __init__(self, world: World, bridges: Bridges, watcher: Watcher) -> None:
        self._world = world
        self._bridges = bridges
        self._watcher = watcher
        self._host = world.settings.hypervisor.host
        self.knows_states = asyncio.Event()
        """Set once the states of all VMs have been reported."""
        self.knows_vms = asyncio.Event()
        """Set once it is known how all VMs are configured."""

    async def run(self) -> None:
        """Learn the VMs and their states, and go on to follow them.

        Where guests are on loopback, their states come first: as long as no VM is on a bridge, how ten thousand of them
        are configured need not be read.
        """
        hypervisor = self._world.settings.hypervisor
        is_without_bridges = hypervisor.kind.about.is_on_loopback and not hypervisor.connections
        states_first = self._bridges.are_found and is_without_bridges
        if states_first:
            self._follow_states()
            await self._bridges.are_there.wait()
        await follow_vms(
            self._world,
            self._world.client("store"),
            lambda changes: self.configured(on_host(changes, self._host)),
            check=partial(check, self._host),
        )
        self.knows_vms.set()
        if not states_first:
            self._follow_states()

    def _follow_states(self) -> None:
        vmd = self._world.client("vmd", self._host)
        follow_states(self._world, {self._host: vmd}, self.all_states, self.state)

    def configured(self, changes: Sequence[VmChanged]) -> None:
        """Note how VMs are configured."""
        self._watcher.handle(HostVmsConfigured(changes))

    def all_states(self, statuses: list[VmStatus], _: str) -> None:
        """Note the states of all VMs."""
        self._watcher.handle(HostStatesListed(statuses))
        self.knows_states.set()

    def state(self, status: VmStatus, gone: bool) -> None:
        """Note the state of one VM."""
        self._watcher.handle(StateReported(status, gone))
