"""Looking at machines: at all of them in one call, and at some of them one by one.

What the cluster reports of all is up to some ten seconds old (rules/machines.py). So a machine about which there was a
task, ours or another's, is looked at by itself for a minute.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.hypervisors.proxmox.rules.answers import PveFault, changed_machines
from jitsu_vmd.hypervisors.proxmox.rules.hardware import nics_of
from jitsu_vmd.hypervisors.proxmox.rules.machines import PveCluster, cluster_of, guest_of, is_certain, state_of
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisor import Nic
    from jitsu_vmd.hypervisors.proxmox.rules.machines import PveMachine
    from jitsu_vmd.hypervisors.proxmox.wires.client import PveClient

RECENT_S = 60.0
"""pvestatd publishes every 10 s, and may take a few times as long when a storage hangs."""
FEW = 4
"""Each of this many machines is asked about by itself; of more, the cluster's list is believed where it is certain."""
AT_ONCE = 6
"""Calls to a cluster whose pveproxy has three workers by default (pveproxy(8))."""
LOOK_LIMIT_S = 10.0


class PveLooks:
    """What is known of the machines of one cluster."""

    def __init__(self, client: PveClient, clock: Clock) -> None:
        self.cluster = PveCluster()
        """As it was reported last."""
        self._client = client
        self._clock = clock
        self._recent: dict[int, float] = {}
        """VMID -> until when it is looked at by itself."""
        self._nics: dict[int, tuple[Nic, ...]] = {}
        self._uuids: dict[int, str] = {}
        self._tasks: set[str] | None = None
        self._asking: asyncio.Future[PveCluster] | None = None
        self._calls = asyncio.Semaphore(AT_ONCE)

    async def refresh(self) -> PveCluster:
        """Ask for all machines; callers at the same time share one answer, as it is old anyway."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, asking: asyncio.Future[PveCluster]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # each caller has been told, unless it was cancelled

    async def _ask(self) -> PveCluster:
        self.cluster = cluster_of(await self._client.get("/cluster/resources", LOOK_LIMIT_S))
        return self.cluster

    def changes(self, machine: PveMachine) -> None:
        """Note that a machine is about to change."""
        self._recent[machine.vmid] = self._clock.now() + RECENT_S
        self._nics.pop(machine.vmid, None)

    async def hints(self) -> set[str]:
        """Return the uuids of VMs about which there was a task since the last call."""
        tasks = await self._client.get("/cluster/tasks")
        known = self._tasks
        self._tasks, machines = changed_machines(tasks, known or ())
        if known is None:
            return set()
        until = self._clock.now() + RECENT_S
        self._recent |= dict.fromkeys(machines & self._uuids.keys(), until)
        return {self._uuids[vmid] for vmid in machines if vmid in self._uuids}

    def forget_tasks(self) -> None:
        """Note that tasks may have been missed."""
        self._tasks = None

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs."""
        cluster = await self.refresh()
        now = self._clock.now()
        self._recent = {vmid: until for vmid, until in self._recent.items() if until > now}
        found: dict[str, Guest] = {}
        close: list[tuple[VM, PveMachine]] = []
        for vm in vms:
            meant = cluster.meant(vm)
            if len(meant) != 1:
                continue
            machine = meant[0]
            self._uuids[machine.vmid] = vm.uuid
            if unseen := cluster.why_unseen(machine):
                found[vm.uuid] = Guest(unseen=unseen)
            elif len(vms) <= FEW or machine.vmid in self._recent or not is_certain(machine, vm):
                close.append((vm, machine))
            else:
                found[vm.uuid] = guest_of(machine, self._nics.get(machine.vmid, ()))
        looked = await asyncio.gather(*(self._look(machine) for _, machine in close))
        for (vm, _), guest in zip(close, looked, strict=True):
            if guest is not None:
                found[vm.uuid] = guest
        return found

    async def state(self, machine: PveMachine) -> tuple[GuestState, str]:
        """Return what a machine is now, and its lock; raises JitsuError."""
        record = await self._status(machine)
        lock = str(record.get("lock") or "")
        state = state_of(str(record.get("status")), str(record.get("qmpstatus") or ""), lock)
        if state is None:
            raise PveFault(f"Proxmox VE reports the status {str(record.get('status'))[:40]!r}")
        return state, lock

    async def _status(self, machine: PveMachine) -> dict[str, Any]:
        async with self._calls:
            record = await self._client.get(f"{machine.path}/status/current", LOOK_LIMIT_S)
        if not isinstance(record, dict):
            raise PveFault("Proxmox VE has answered with a status that is not a record")
        return record

    async def _look(self, machine: PveMachine) -> Guest | None:
        """Look at a machine by itself; None if it is not there."""
        try:
            record = await self._status(machine)
            lock, up = str(record.get("lock") or ""), record.get("uptime")
            state = state_of(str(record.get("status")), str(record.get("qmpstatus") or ""), lock)
            if state is None:
                return Guest(unseen=f"Proxmox VE reports the status {str(record.get('status'))[:40]!r}")
            nics = await self._nics_of(machine)
        except PveFault as fault:
            return None if fault.has_moved else Guest(unseen=str(fault))
        except JitsuError as error:
            return Guest(unseen=str(error))
        up_s = float(up) if isinstance(up, int | float) and state is GuestState.RUNNING else None
        return Guest(state, up_s=up_s, nics=nics, reason=_reason(record, state), note=_note(lock))

    async def _nics_of(self, machine: PveMachine) -> tuple[Nic, ...]:
        if machine.vmid not in self._nics:
            is_here = machine.node == os.uname().nodename.partition(".")[0]
            self._nics[machine.vmid] = nics_of(machine, await self.config(machine), is_here=is_here)
        return self._nics[machine.vmid]

    async def config(self, machine: PveMachine) -> dict[str, Any]:
        """Return the configuration of a machine; raises JitsuError."""
        async with self._calls:
            config = await self._client.get(f"{machine.path}/config", LOOK_LIMIT_S)
        return config if isinstance(config, dict) else {}

    async def ask(self, path: str) -> object:
        """Return what a guest agent or a node says of a machine, None if it says nothing."""
        try:
            async with self._calls:
                return await self._client.get(path, LOOK_LIMIT_S)
        except JitsuError:
            return None

    def forget(self, vm: VM) -> None:
        """Forget a VM that is no longer configured."""
        for vmid in [vmid for vmid, uuid in self._uuids.items() if uuid == vm.uuid]:
            del self._uuids[vmid]
            self._nics.pop(vmid, None)


def _reason(record: dict[str, Any], state: GuestState) -> str:
    qmpstatus = str(record.get("qmpstatus") or "")
    return f"QEMU reports {qmpstatus[:40]}" if state is GuestState.CRASHED else ""


def _note(lock: str) -> str:
    """Say which lock a machine has, unless that follows from its state."""
    return f"Proxmox VE has locked it ({lock[:40]})" if lock and lock != "suspended" else ""
