"""Which VMs are to be looked at, and the loop that asks their hypervisors about them.

A look is at the VMs that something happened to since the last one, and every `RECONCILE_S` at all. One look is under
way at a time, so that a hundred events are one look, and it costs what the VMs in it cost, not what all cost.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.hypervisors import Hypervisors

RECONCILE_S = 10.0
"""Lifecycle events tell at once what happens to guests; this finds what they missed."""
IN_A_ROW = 50
"""Machines that are told what was found before others have their turn: ten thousand would take a second."""


class Looks:
    """The looks of one vmd."""

    def __init__(
        self,
        hypervisors: Hypervisors,
        machines: Mapping[str, VmMachine],
        found: Callable[[VmMachine, Guest, float], None],
    ) -> None:
        """`found` gets each VM that was looked at, what its hypervisor says, and when that was asked."""
        self._hypervisors = hypervisors
        self._machines = machines
        self._found = found
        self._wanted_vms: set[str] = set()
        self._wants_all = False
        self._wanted = asyncio.Event()
        self._one = asyncio.Lock()
        self._hinted: set[str] = set()

    def changed(self, vm: str) -> None:
        """Take a hint of the hypervisor that a VM, or all ("") may have changed.

        While a call is under way the machine would not believe it: such a VM is looked at when the call returns.
        """
        if not vm:
            self._hinted |= {uuid for uuid, machine in self._machines.items() if machine.call.is_under_way}
            self._wants_all = True
            self._wanted.set()
        elif vm in self._machines and self._machines[vm].call.is_under_way:
            self._hinted.add(vm)
        else:
            self.at(vm)

    def at(self, vm: str) -> None:
        """Look at a VM soon."""
        self._wanted_vms.add(vm)
        self._wanted.set()

    def after_call(self, machine: VmMachine, error: str) -> None:
        """Look at what a call has left, if it failed or something was reported during it."""
        vm = machine.vm.uuid
        if error or vm in self._hinted or machine.state is VmState.FAILED:
            self.at(vm)
        self._hinted.discard(vm)

    async def go_on(self) -> None:
        """Ask the hypervisors about VMs when there is a reason to, and every `RECONCILE_S` about all."""
        while True:
            try:
                async with asyncio.timeout(RECONCILE_S):
                    await self._wanted.wait()
            except TimeoutError:
                self._wants_all = True
            self._wanted.clear()
            async with self._one:
                await self._look()

    async def at_all(self) -> None:
        """Look at all VMs now; returns when that has been done."""
        async with self._one:
            self._wants_all = True
            await self._look()

    async def _look(self) -> None:
        """Compare what is believed with what the hypervisors say, for the VMs that are to be looked at."""
        wanted, self._wanted_vms = self._wanted_vms, set()
        wants_all, self._wants_all = self._wants_all, False
        as_of = monotonic()
        if wants_all:
            machines = dict(self._machines)
        else:
            machines = {vm: self._machines[vm] for vm in wanted if vm in self._machines}
        guests, heard = await self._hypervisors.guests([machine.guest for machine in machines.values()])
        for n, (vm, machine) in enumerate(machines.items(), 1):
            if n % IN_A_ROW == 0:
                await asyncio.sleep(0)
            if vm not in heard:
                self._wanted_vms.add(vm)
            elif self._machines.get(vm) is machine:
                self._found(machine, guests.get(vm, Guest(GuestState.OFF)), as_of)
