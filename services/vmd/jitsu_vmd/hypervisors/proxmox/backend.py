"""Proxmox VE: the VMs and containers that a node or a cluster has already. A cluster is one hypervisor.

What its states and answers mean is in rules/; wires/client.py makes the requests, and waits for the tasks that they
begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import sleep
from jitsu_vmd.hypervisor import Examined, Guest
from jitsu_vmd.hypervisors.proxmox.rules.answers import PveFault
from jitsu_vmd.hypervisors.proxmox.rules.keys import check_possible, check_unused
from jitsu_vmd.hypervisors.proxmox.rules.machines import SUSPENDED, check_mode
from jitsu_vmd.hypervisors.proxmox.wires.client import PveClient
from jitsu_vmd.hypervisors.proxmox.wires.discovery import discovered
from jitsu_vmd.hypervisors.proxmox.wires.looks import PveLooks
from jitsu_vmd.hypervisors.proxmox.wires.marks import RestoreMarks
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Discovered
    from jitsu_vmd.hypervisors.proxmox.rules.machines import PveMachine

HINTS_EVERY_S = 1.0
TRIES = 4
"""Of a call that finds the machine in another state, or on another node, than it was a moment ago."""
LOCK_RETRY_S = 1.0
ASK_LIMIT_S = 10
"""How long one request to shut down may hold the machine's lock."""
STOP_LIMIT_S = 120.0
"""The HA manager stops a machine some ten seconds after it was asked to."""
WATCH_S = 0.5

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Proxmox:
    """Return the Proxmox VE at an address."""
    return Proxmox(world, connection)


class Proxmox:
    """The machines of one node or cluster."""

    def __init__(self, world: World, connection: HypervisorConnection) -> None:
        self._clock = world.clock
        self.client = PveClient(connection, world.clock)
        self.name = f"Proxmox VE ({connection.uri})"
        self._looks = PveLooks(self.client, world.clock)
        self._marks = RestoreMarks(Path(world.settings.hypervisor.save_directory))

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if Proxmox VE cannot do what a VM's keys ask for."""
        check_possible(vm)
        for machine in self._looks.cluster.meant(vm):
            check_mode(machine, vm.value("stop_mode"))

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for machines that there are not."""
        cluster = await self._looks.refresh()

        def is_there(vm: VM) -> None:
            try:
                cluster.machine(vm)
            except JitsuError as error:
                raise Refused(error.message, hint=error.hint) from None

        return {
            vm.uuid: examined(vm, is_there, self.check, check_unused, writes_to_disk=len(cluster.meant(vm)) == 1)
            for vm in vms
        }

    # --- looking ---

    async def open(self) -> None:
        """Read the token, and ask for the machines."""
        self.client.load()
        try:
            await self._looks.refresh()
        except JitsuError:
            await self.client.close()
            raise
        log.info("connected", hypervisor=self.name, machines=len(self._looks.cluster.machines))

    async def run(self, changed: Callable[[str], None]) -> None:
        """Notice the tasks of the cluster: there are no events in this API."""
        try:
            while True:
                try:
                    for uuid in await self._looks.hints():
                        changed(uuid)
                except JitsuError as error:
                    log.debug("no tasks from Proxmox VE", reason=str(error))
                    self._looks.forget_tasks()
                    changed("")
                await sleep(self._clock, HINTS_EVERY_S)
        finally:
            await self.client.close()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs."""
        found = await self._looks.guests(vms)
        for uuid, guest in found.items():
            if guest.state is GuestState.SUSPENDED and self._marks.has(uuid):
                found[uuid] = Guest(guest.state, note=_MAYBE_USED, nics=guest.nics)
        return found

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a VM run: continue it if it is paused, restore its saved memory, or boot it."""
        for _ in range(TRIES):
            machine = await self._machine(vm)
            state, lock = await self._looks.state(machine)
            if state is GuestState.RUNNING:
                if lock != SUSPENDED:
                    self._marks.end(vm.uuid)
                return
            if state is GuestState.SUSPENDED and self._marks.has(vm.uuid):
                raise BootFailed(f"{vm.name}: {_MAYBE_USED}", hint=f"`jitsu start {vm.name} --discard-saved-state`")
            try:
                await self._let_run(vm, machine, state)
            except PveFault as fault:
                if not await self._again(vm, fault):
                    raise
            else:
                if state is not GuestState.SUSPENDED:
                    return  # else once more, to see that the saved memory is gone
        raise Unavailable(f"{vm.name}: others start and stop it at the same time")

    async def _let_run(self, vm: VM, machine: PveMachine, state: GuestState) -> None:
        if state is GuestState.SUSPENDED:
            try:
                self._marks.begin(vm.uuid)
            except OSError as error:
                raise BootFailed(f"{vm.name}: cannot note that its saved state is used: {error}") from None
        if state is GuestState.CRASHED:
            await self._change(machine, "stop")
        try:
            await self._change(machine, "resume" if state is GuestState.PAUSED else "start")
        except PveFault:
            if state is GuestState.SUSPENDED and (await self._looks.state(machine))[0] is GuestState.SUSPENDED:
                self._marks.end(vm.uuid)  # QEMU has ended before the guest was let run
            raise

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        await stop(vm, how, self, self._clock)

    async def suspend(self, vm: VM) -> None:
        """Save a machine's memory to disk."""
        await self._save(vm, StopMode.SUSPEND, GuestState.SUSPENDED, todisk="1")

    async def pause(self, vm: VM) -> None:
        """Stop a machine's processors."""
        await self._save(vm, StopMode.PAUSE, GuestState.PAUSED)

    async def _save(self, vm: VM, how: StopMode, wanted: GuestState, **form: str) -> None:
        machine = await self._machine(vm)
        check_mode(machine, how)
        state, _ = await self._looks.state(machine)
        if state in (wanted, GuestState.OFF):
            return
        await self._change(machine, "suspend", **form)
        self._marks.end(vm.uuid)  # this saved state is new

    async def is_off(self, vm: VM) -> bool:
        """Say whether a machine is off."""
        state, _ = await self._looks.state(await self._machine(vm))
        return state is GuestState.OFF

    async def press(self, vm: VM) -> None:
        """Ask the guest to shut down; Proxmox VE returns when it has, or when ASK_LIMIT_S are over."""
        machine = await self._machine(vm)
        try:
            await self._change(machine, "shutdown", timeout=str(ASK_LIMIT_S))
        except PveFault as fault:
            if not (fault.is_settled or fault.waits_for_lock):
                raise Refused(fault.message, hint=fault.hint) from None
            raise

    async def destroy(self, vm: VM) -> None:
        """Stop a machine that runs, at once."""
        try:
            machine = await self._machine(vm)
        except NotFound:
            return
        await self._halt(vm, machine, frozenset({GuestState.RUNNING, GuestState.CRASHED}))

    async def _halt(self, vm: VM, machine: PveMachine, states: frozenset[GuestState]) -> None:
        """Stop a machine that is in one of these states, and return when it is off."""
        ends = self._clock.now() + STOP_LIMIT_S
        while True:
            state, _ = await self._looks.state(machine)
            if state in (GuestState.OFF, GuestState.SUSPENDED):
                return
            if state not in states:
                raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
            try:
                await self._change(machine, "stop")
            except PveFault as fault:
                if not (fault.is_settled or fault.waits_for_lock) or self._clock.now() > ends:
                    raise
            state, _ = await self._looks.state(machine)
            if state in (GuestState.OFF, GuestState.SUSPENDED):
                return
            if self._clock.now() > ends:
                raise Unavailable(f"{vm.name} still runs {STOP_LIMIT_S:g} s after it was to stop")
            await sleep(self._clock, WATCH_S)  # the HA manager has only noted it, or another task holds it

    async def discard(self, vm: VM) -> None:
        """Stop a machine that is paused, or delete its saved memory."""
        machine = await self._machine(vm)
        match (await self._looks.state(machine))[0]:
            case GuestState.RUNNING:
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            case GuestState.PAUSED:
                await self._halt(vm, machine, frozenset({GuestState.PAUSED}))
            case GuestState.SUSPENDED:
                self._looks.changes(machine)
                await self.client.change("PUT", f"{machine.path}/config", delete="vmstate")
        self._marks.end(vm.uuid)

    async def forget(self, vm: VM) -> None:
        """Nothing was made for a VM."""
        self._looks.forget(vm)

    async def discover(self) -> Sequence[Discovered]:
        """Return all machines, with addresses as far as configuration, agents and nodes tell."""
        return await discovered(self._looks)

    # --- one machine ---

    async def _machine(self, vm: VM) -> PveMachine:
        """Return the machine of a VM, on the node where it is now; raises Unavailable if that is offline."""
        cluster = await self._looks.refresh()
        machine = cluster.machine(vm)
        if why := cluster.why_unseen(machine):
            raise Unavailable(f"{vm.name}: {why}")
        return machine

    async def _change(self, machine: PveMachine, what: str, **form: str) -> None:
        """Have a machine started, stopped, suspended or resumed."""
        self._looks.changes(machine)
        try:
            await self.client.change("POST", f"{machine.path}/status/{what}", **form)
        finally:
            self._looks.changes(machine)

    async def _again(self, vm: VM, fault: PveFault) -> bool:
        """Say whether a start that has failed is to be tried again; that is after a moment if another task is busy."""
        if fault.waits_for_lock:
            log.info("another task holds the machine", vm=vm.name, reason=fault.message)
            await sleep(self._clock, LOCK_RETRY_S)
        return fault.is_settled or fault.has_moved or fault.waits_for_lock


_MAYBE_USED = "its saved state may have been used already: a node has failed while it was restored"
