"""The QEMU processes of all VMs of one connection, by the VM's uuid."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_vmd.hypervisors.qemu.rules.life import Process, process_of
from jitsu_vmd.hypervisors.qemu.rules.reasons import has_crashed
from jitsu_vmd.hypervisors.qemu.wires.machine import QemuProcess, found_again
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch
    from jitsu_vmd.hypervisors.qemu.wires.machine import Around
    from jitsu_vmd.hypervisors.qemu.wires.spawn import Spawned

LOOK_LIMIT_S = 2.0

log = structlog.get_logger("vmd")


class QemuProcesses:
    """The processes that run, and how the last one of each VM has ended."""

    def __init__(self, directory: Path, changed: Callable[[str], None], around: Around) -> None:
        self.directory = directory
        self._changed = changed
        self._around = around
        self._starting: list[Launch] = []
        """Of processes that are being started, whose disks nobody else may have either."""
        self._running: dict[str, QemuProcess] = {}
        self._ends: dict[str, tuple[GuestState, str]] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        """Processes that this vmd has started and has no connection to: it still has to learn how they end."""

    async def find(self) -> None:
        """Find those that an earlier vmd has started. One that hangs is there, too."""
        for record in self.directory.glob("*/record"):
            vm = record.parent.name
            if vm not in self._running and (machine := found_again(record.parent, self._changed)) is not None:
                machine.adopt(self._children.pop(machine.pid, None))
                self._running[vm] = machine
        for child in self._children.values():
            child.poll()
        await asyncio.gather(*(self._reconnect(vm) for vm in self._running))

    async def _reconnect(self, vm: str) -> None:
        try:
            await self.process(vm)
        except Unavailable as error:
            log.warning("a QEMU process does not answer", vm=self._running[vm].launch.name, reason=str(error))

    async def close(self) -> None:
        """End all connections; the processes go on."""
        while self._running:
            machine = self._running.popitem()[1]
            if (child := machine.child) is not None:
                self._children[machine.pid] = child
            await machine.close()

    def get(self, vm: str) -> QemuProcess | None:
        """Return the process of a VM, if it has one."""
        return self._running.get(vm)

    def launches(self) -> list[Launch]:
        """Return what the processes are made of that have not ended."""
        return [machine.launch for machine in self._running.values() if not machine.ended.is_set()]

    def end(self, vm: str) -> tuple[GuestState, str]:
        """Return how a VM's last process has ended by itself, and why."""
        return self._ends.get(vm, (GuestState.OFF, ""))

    async def process(self, vm: str) -> Process:
        """Return what a VM's process says of itself; raises Unavailable if it hangs."""
        machine = self._running.get(vm)
        if machine is None:
            return Process.NONE
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return await self._asked(machine)
        except (TimeoutError, Unavailable) as error:
            if not await machine.ends_now():
                why = str(error) or f"QEMU of {machine.launch.name} does not answer within {LOOK_LIMIT_S:g} s"
                raise Unavailable(why) from None
        if self._running.get(vm) is machine:
            del self._running[vm]
            failed = has_crashed(machine.status, machine.cause)
            self._ends[vm] = (GuestState.CRASHED, machine.reason()) if failed else (GuestState.OFF, "")
            await machine.kill()
        return Process.NONE

    async def _asked(self, machine: QemuProcess) -> Process:
        if machine.ended.is_set():
            raise Unavailable("it has ended")
        if not machine.monitor.is_connected:
            await machine.connect()
        status = process_of(str((await machine.monitor.call("query-status")).get("status")))
        return Process.UNBORN if machine.is_unfinished else status

    async def launch(self, spawned: Spawned) -> QemuProcess:
        """Start the process of a VM that has none; raises BootFailed."""
        launch = spawned.launch
        for other in (*self._starting, *self.launches()):
            if launch.template and launch.template == other.template:
                continue  # they only read the disks of their template
            if shared := {disk.path for disk in launch.disks} & {disk.path for disk in other.disks}:
                raise BootFailed(f"disk: {min(shared)} is in use by another VM, {other.name}")
        machine = QemuProcess(self.directory / launch.uuid, launch, self._changed)
        self._ends.pop(launch.uuid, None)
        self._starting.append(launch)
        try:
            await machine.start(spawned, self._around)
            self._running[launch.uuid] = machine
        finally:
            self._starting.remove(launch)
        return machine

    async def kill(self, vm: str) -> None:
        """End the process of a VM, and forget how others have ended before; raises Unavailable."""
        if (machine := self._running.get(vm)) is not None:
            await machine.kill()
            self._running.pop(vm, None)
        self._ends.pop(vm, None)
