"""QEMU without libvirt: each VM is a QEMU process with a user of its own, driven by QMP. rules/life.py has the table.

What vmd must know of a VM after it was started again is in two places: the record of its process (in the runtime
directory), and its save (in hypervisor.save_directory).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.hypervisors.qemu.rules import keys
from jitsu_vmd.hypervisors.qemu.rules.command_line import command_line
from jitsu_vmd.hypervisors.qemu.rules.life import Process, SaveState, Start, is_kept, life, process_of
from jitsu_vmd.hypervisors.qemu.rules.plan import launch_of
from jitsu_vmd.hypervisors.qemu.rules.reasons import has_crashed
from jitsu_vmd.hypervisors.qemu.wires.machine import Identity, QemuProcess, found_again
from jitsu_vmd.hypervisors.qemu.wires.saves import GuestSaves
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.kvm import QEMU, kvm_works
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.shutdown import shut_down
from jitsu_vmd.hypervisors.shared.this_host import check_boot_files, check_parts, closed_to_others
from jitsu_vmd.hypervisors.shared.threads import Threads
from jitsu_vmd.hypervisors.shared.user_file import UserFile
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch

DIRECTORY = "qemu"
DEFAULT_TSC_KHZ = 2_000_000

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Qemu:
    """Return the QEMU processes of this host."""
    return Qemu(world)


class Qemu:
    """The QEMU processes of this host that this vmd has started."""

    name = "qemu"

    def __init__(self, world: World) -> None:
        self._settings = world.settings.hypervisor
        self._clock = world.clock
        self._directory = world.settings.bus.directory.absolute() / DIRECTORY
        self._users = UserFile(self._directory, "hypervisor.uids")
        self._saves = GuestSaves(Path(self._settings.save_directory) / DIRECTORY)
        self._threads = Threads("qemu")
        self._machines: dict[str, QemuProcess] = {}
        self._ends: dict[str, tuple[GuestState, str]] = {}
        """uuid of a VM -> how its last process has ended by itself."""
        self._report: Callable[[str], None] | None = None
        self._is_kvm = False
        self._qemu = ""

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if QEMU can never do what a VM's keys ask for."""
        spec = domain_spec(vm, self._settings.bridge)
        keys.check_possible(vm, spec)
        check_boot_files(spec)
        for key, path in (("kernel", spec.kernel), ("initrd", spec.initrd)):
            if path and (why := closed_to_others(path, stat.S_IROTH)):
                raise Refused(f"{key}: QEMU's user cannot read it: {why}")

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for disks and bridges that are not there."""
        return {
            vm.uuid: examined(vm, keys.check_unused, check_parts, writes_to_disk=bool(vm.config.get("disk")))
            for vm in vms
        }

    # --- looking ---

    async def open(self) -> None:
        """Find the processes that run."""
        if os.geteuid():
            raise SetupFault("qemu needs root: for taps, and to give each QEMU a user of its own")
        self._qemu = shutil.which(QEMU) or ""
        if not self._qemu:
            raise SetupFault(f"there is no {QEMU}", hint="install qemu-system-x86")
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._users.open(self._settings.uids)
        wants = self._settings.accelerate
        self._is_kvm = wants == "kvm" or (wants == "auto" and await kvm_works())
        for record in self._directory.glob("*/record"):
            vm = record.parent.name
            if vm not in self._machines:
                await self._find(record.parent)

    async def _find(self, directory: Path) -> None:
        machine = found_again(directory, self._changed)
        if machine is None:
            return
        self._machines[directory.name] = machine
        try:
            await machine.connect_again()
        except Unavailable as error:  # it is there, and may hang: it is unseen, and not started a second time
            log.warning("a QEMU process does not answer", vm=machine.launch.name, reason=str(error))

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report what QEMU processes say, and that they have ended."""
        self._report = changed
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """End all connections; the processes go on."""
        for vm in list(self._machines):
            await self._machines.pop(vm).close()

    def _changed(self, vm: str) -> None:
        if self._report is not None:
            self._report(vm)

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Ask each process that runs; those that are off cost a look at their save."""
        return {vm.uuid: await self._guest(vm) for vm in vms}

    async def _guest(self, vm: VM) -> Guest:
        machine = self._machines.get(vm.uuid)
        try:
            process = await self._process(vm.uuid)
        except Unavailable as error:
            return Guest(unseen=str(error))
        row = life(process, self._saves.of(vm.uuid))
        state, reason = row.state, ""
        if process is Process.NONE and vm.uuid in self._ends and state is GuestState.OFF:
            state, reason = self._ends[vm.uuid]
        if row.start is Start.REFUSED:
            reason = f"a save of it may have been used: see {self._saves.directory / vm.uuid}"
        if machine is not None:
            return Guest(state, reason=reason, nics=tuple(Nic(n.mac, n.bridge, n.tap) for n in machine.launch.nics))
        return Guest(state, reason=reason, nics=tuple(Nic(n.mac, n.bridge) for n in self._spec_nics(vm)))

    def _spec_nics(self, vm: VM) -> Sequence[Nic]:
        return [Nic(nic.mac, nic.bridge) for nic in domain_spec(vm, self._settings.bridge).nics]

    async def _process(self, vm: str) -> Process:
        """Return what a VM's process says of itself; raises Unavailable if it hangs."""
        machine = self._machines.get(vm)
        if machine is None:
            return Process.NONE
        if not machine.ended.is_set():
            try:
                return process_of(str((await machine.monitor.call("query-status"))["status"]))
            except Unavailable:
                if not machine.ended.is_set():
                    raise
        if self._machines.get(vm) is machine:
            failed = has_crashed(machine.status, machine.cause)
            self._ends[vm] = (GuestState.CRASHED, machine.reason()) if failed else (GuestState.OFF, "")
            del self._machines[vm]
            await machine.kill()
        return Process.NONE

    # --- starting ---

    async def start(self, vm: VM) -> None:
        """Let a VM run, as the table says."""
        process, save = await self._process(vm.uuid), self._saves.of(vm.uuid)
        match life(process, save).start:
            case Start.REFUSED:
                where = self._saves.directory / vm.uuid
                raise BootFailed(f"a save of it may have been used before ({where}); discard it to boot again")
            case Start.BOOT:
                await self._boot(vm)
            case Start.LOAD:
                await self._load(vm)
            case Start.CONTINUE | Start.MARK_AND_CONTINUE:
                await self._continue(vm, save)
            case Start.NOTHING:
                self._saves.drop_state(vm.uuid)

    async def _boot(self, vm: VM) -> None:
        spec = domain_spec(vm, self._settings.bridge)
        try:
            self.check(vm)
        except Refused as refused:
            raise BootFailed(str(refused)) from None
        launch = launch_of(vm, spec, str(self._directory), is_kvm=self._is_kvm)
        await self._kill(vm.uuid)
        self._saves.drop_state(vm.uuid)
        if launch.shares_memory:
            self._saves.make(vm.uuid)
            ram = self._saves.ram(vm.uuid)
            ram.unlink(missing_ok=True)
            ram.touch(mode=0o600)
        machine = await self._launched(launch, is_incoming=False)
        await machine.monitor.call("cont")

    async def _load(self, vm: VM) -> None:
        try:
            launch = self._saves.launch(vm.uuid)
            state = await self._threads.run(self._saves.path(vm.uuid, SaveState.SAVED).read_bytes)
        except (OSError, ValueError) as error:
            raise BootFailed(f"its save in {self._saves.directory / vm.uuid} cannot be read: {error}") from None
        await self._kill(vm.uuid)
        machine = await self._launched(launch, is_incoming=True)
        try:
            await machine.load(state)
        except (JitsuError, OSError) as error:
            await self._kill(vm.uuid)
            raise BootFailed(f"its save cannot be loaded: {error}") from None
        await self._continue(vm, SaveState.SAVED)

    async def _continue(self, vm: VM, save: SaveState) -> None:
        if save is SaveState.SAVED:
            await self._threads.run(lambda: self._saves.becomes(vm.uuid, SaveState.SAVED, SaveState.USED))
        await self._machines[vm.uuid].monitor.call("cont")
        self._saves.drop_state(vm.uuid)

    async def _launched(self, launch: Launch, *, is_incoming: bool) -> QemuProcess:
        vm = launch.uuid
        user = self._users.user(vm)
        for disk in launch.disks:
            for other in self._machines.values():
                if other.launch.uuid != vm and disk.path in [each.path for each in other.launch.disks]:
                    raise BootFailed(f"disk: {disk.path} is in use by another VM, {other.launch.name}")
        ram = self._saves.ram(vm)
        if launch.shares_memory:
            os.chown(ram, user, user)
        groups = [os.stat("/dev/kvm").st_gid] if launch.is_kvm else []
        machine = QemuProcess(self._directory / vm, launch, self._changed)
        self._ends.pop(vm, None)
        words = partial(command_line, self._qemu, launch, tsc_khz=_tsc_khz(), is_incoming=is_incoming)
        await machine.start(Identity(user, groups), words, str(ram))
        self._machines[vm] = machine
        return machine

    # --- stopping ---

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        match how:
            case StopMode.DESTROY:
                await self.destroy(vm)
            case StopMode.SHUTDOWN:
                await shut_down(vm, self, self._clock)
            case StopMode.PAUSE:
                if await self._process(vm.uuid) is Process.RUNNING:
                    await self._machines[vm.uuid].monitor.call("stop")
            case StopMode.SUSPEND:
                await self._suspend(vm)

    async def is_off(self, vm: VM) -> bool:
        """Say whether there is nothing that could shut down."""
        return await self._process(vm.uuid) in (Process.NONE, Process.BROKEN)

    async def press(self, vm: VM) -> None:
        """Press the guest's power button."""
        if (machine := self._machines.get(vm.uuid)) is not None:
            await machine.monitor.call("system_powerdown")

    async def destroy(self, vm: VM) -> None:
        """End a guest at once, unless it is paused: then its memory is saved state."""
        process = await self._process(vm.uuid)
        if life(process, self._saves.of(vm.uuid)).state is GuestState.PAUSED:
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        if process is not Process.STOPPED:
            await self._kill(vm.uuid)

    async def _suspend(self, vm: VM) -> None:
        process = await self._process(vm.uuid)
        state = life(process, self._saves.of(vm.uuid)).state
        if state is GuestState.SUSPENDED:
            return
        if process not in (Process.RUNNING, Process.STOPPED):
            raise Unavailable(f"{vm.name} does not run: it cannot be suspended")
        machine = self._machines[vm.uuid]
        if process is Process.RUNNING:
            self._saves.drop_state(vm.uuid)
            await machine.monitor.call("stop")
        try:
            saved = await machine.save(self._users.user(vm.uuid))
            await self._threads.run(lambda: self._saves.write(vm.uuid, machine.launch, saved))
        except (JitsuError, OSError) as error:
            if process is Process.RUNNING and self._saves.of(vm.uuid) is not SaveState.SAVED:
                await machine.monitor.call("cont")
            raise Unavailable(f"{vm.name} could not be suspended: {error}") from None
        await self._kill(vm.uuid)

    async def discard(self, vm: VM) -> None:
        """Delete what is kept of a VM, in memory and on disk."""
        if await self._process(vm.uuid) is Process.RUNNING:
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        await self._kill(vm.uuid)
        self._ends.pop(vm.uuid, None)
        self._saves.delete(vm.uuid)

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM."""
        process, save = await self._process(vm.uuid), self._saves.of(vm.uuid)
        if process is Process.RUNNING:
            raise Unavailable("its QEMU process runs")
        if is_kept(process, save):
            where = (
                self._saves.directory / vm.uuid if save is not SaveState.NONE else "its QEMU process, which is paused"
            )
            raise Unavailable(f"its memory is kept: {where}")
        await self._kill(vm.uuid)
        self._ends.pop(vm.uuid, None)
        self._saves.delete(vm.uuid)
        shutil.rmtree(self._directory / vm.uuid, ignore_errors=True)
        if self._users.known(vm.uuid) is not None:
            self._users.forget(vm.uuid)

    async def _kill(self, vm: str) -> None:
        if (machine := self._machines.get(vm)) is not None:
            await machine.kill()
            self._machines.pop(vm, None)


def _tsc_khz() -> int:
    """Return the frequency of this host's time stamp counter, which an emulated guest sees too."""
    with open("/proc/cpuinfo") as file:
        found = [line.partition(":")[2] for line in file if line.startswith("cpu MHz")]
    try:
        return int(float(found[0]) * 1000)
    except (IndexError, ValueError):
        return DEFAULT_TSC_KHZ
