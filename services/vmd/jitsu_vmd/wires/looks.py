"""The loop that asks the hypervisors about VMs.

Each round asks about the VMs to which something has happened since the last one, and every `RECONCILE_S` about all. One
round is under way at a time, so that a hundred events are one round, and it costs what the VMs in it cost, not what all
VMs cost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.clock import Clock
    from jitsu_vmd.rules.fleet import Fleet
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.hypervisors import Hypervisors

RECONCILE_S = 10.0
"""Lifecycle events tell at once what happens to guests; this finds what they missed."""
UNSEEN_S = 25.0
"""For that long a VM that was up counts as up although nothing is known of it. A cluster of LXD whose database has lost
its leader calls members offline for some 15 s that are not."""
IN_A_ROW = 50
"""This many machines are given what was found before others have their turn: ten thousand would take a second."""


class Looks:
    """The looks of one vmd."""

    def __init__(
        self,
        hypervisors: Hypervisors,
        fleet: Fleet,
        clock: Clock,
        found: Callable[[VmMachine, Guest | None, float], None],
    ) -> None:
        """`found` is given each VM, what its hypervisor reports, and when it was asked.

        None in place of a report: the hypervisor has said for `UNSEEN_S` that nothing is known of this VM.
        """
        self._hypervisors = hypervisors
        self._fleet = fleet
        self._clock = clock
        self._found = found
        self._wanted_vms: set[str] = set()
        self._wants_all = False
        self._wanted = asyncio.Event()
        self._one = asyncio.Lock()
        self._unseen_since: dict[str, float] = {}
        """uuid -> since when its hypervisor says that nothing is known of it."""

    def at(self, vm: str) -> None:
        """Look at a VM soon; with "" at all."""
        if vm:
            self._wanted_vms.add(vm)
        else:
            self._wants_all = True
        self._wanted.set()

    async def go_on(self) -> None:
        """Ask the hypervisors about VMs when there is a reason to, and every `RECONCILE_S` about all."""
        while True:
            timer = self._clock.call_in(RECONCILE_S, lambda: self.at(""))
            await self._wanted.wait()
            timer.cancel()
            self._wanted.clear()
            async with self._one:
                await self._look()

    async def at_all(self) -> None:
        """Look at all VMs now; returns when that has been done."""
        async with self._one:
            self._wants_all = True
            await self._look()

    async def _look(self) -> None:
        """Compare what is believed with what the hypervisors report, for the VMs that are to be looked at."""
        known = self._fleet.machines
        wanted, self._wanted_vms = self._wanted_vms, set()
        wants_all, self._wants_all = self._wants_all, False
        if wants_all:
            self._unseen_since = {vm: since for vm, since in self._unseen_since.items() if vm in known}
        as_of = self._clock.now()
        machines = dict(known) if wants_all else {vm: known[vm] for vm in wanted if vm in known}
        guests, heard = await self._hypervisors.guests([machine.guest for machine in machines.values()])
        for n, (vm, machine) in enumerate(machines.items(), 1):
            if n % IN_A_ROW == 0:
                await asyncio.sleep(0)
            if vm not in heard:
                self._wanted_vms.add(vm)
                self._miss(machine, as_of)
            else:
                self._unseen_since.pop(vm, None)
                if known.get(vm) is machine:
                    self._found(machine, guests.get(vm, Guest(GuestState.OFF)), as_of)

    def _miss(self, machine: VmMachine, as_of: float) -> None:
        """Note that nothing is known of a VM. A hypervisor that is silent does not say so, and nothing changes."""
        vm = machine.vm.uuid
        if self._hypervisors.is_unseen(machine.guest):
            if as_of - self._unseen_since.setdefault(vm, as_of) >= UNSEEN_S:
                self._found(machine, None, as_of)
        else:
            self._unseen_since.pop(vm, None)
