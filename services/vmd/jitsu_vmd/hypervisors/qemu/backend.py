"""QEMU without libvirt: each VM is a QEMU process with a user of its own, driven by QMP. rules/life.py has the table.

What vmd must know of a VM after it was started again is in two places: the record of its process (in the runtime
directory), and its save (in hypervisor.save_directory).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import JitsuError, Refused, SetupFault, Unavailable
from jitsu_vmd.hypervisor import Discovered, Examined, Guest, Nic
from jitsu_vmd.hypervisors.qemu.rules import keys
from jitsu_vmd.hypervisors.qemu.rules.life import Process, SaveState, Start, is_kept, life
from jitsu_vmd.hypervisors.qemu.wires.machine import Around
from jitsu_vmd.hypervisors.qemu.wires.machines import QemuProcesses
from jitsu_vmd.hypervisors.qemu.wires.monitor import check_library
from jitsu_vmd.hypervisors.qemu.wires.reserved_taps import ReservedTaps
from jitsu_vmd.hypervisors.qemu.wires.saves import GuestSaves
from jitsu_vmd.hypervisors.qemu.wires.scopes import Scopes
from jitsu_vmd.hypervisors.qemu.wires.starts import Emulator, GuestStarts, Host, refusal
from jitsu_vmd.hypervisors.qemu.wires.state import save
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.kvm import QEMU, kvm_works
from jitsu_vmd.hypervisors.shared.process_ids import process_stat
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.hypervisors.shared.this_host import check_boot_files, check_parts, closed_to_others
from jitsu_vmd.hypervisors.shared.threads import Threads
from jitsu_vmd.hypervisors.shared.user_file import UserFile
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.world import World


def make(world: World, connection: HypervisorConnection) -> Qemu:
    """Return the QEMU processes of a connection."""
    return Qemu(world, "-".join(filter(None, ("qemu", connection.name))))


class Qemu:
    """The QEMU processes of this host that this vmd, or one before it, has started."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._settings = world.settings.hypervisor
        self._clock = world.clock
        self._directory = world.settings.bus.directory.absolute() / name
        self._users = UserFile(self._directory, "hypervisor.uids")
        self._saves = GuestSaves(Path(self._settings.save_directory) / name)
        self._threads = Threads(name)
        self._taps = ReservedTaps(world.clock.now)
        around = Around(self._taps, Scopes(name))
        self._processes = QemuProcesses(self._directory, self._changed, around)
        self._report: Callable[[str], None] | None = None
        shared = (self._users, self._saves, self._processes, self._taps, self._threads, world.clock)
        self._emulator = Emulator()
        self._starts = GuestStarts(Host(self._directory, self._settings.bridge, *shared), self._emulator)

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
        check_library()
        self._emulator.path = shutil.which(QEMU) or ""
        if not self._emulator.path:
            raise SetupFault(f"there is no {QEMU}", hint="install qemu-system-x86")
        try:
            process_stat(1)
        except OSError:  # then a process that runs would be taken for one that has ended
            raise SetupFault("qemu cannot see the processes of other users", hint="ProtectProc=default") from None
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._users.open(self._settings.uids.ids)
        wants = self._settings.accelerate
        self._emulator.is_kvm = wants == "kvm" or (wants == "auto" and await kvm_works())
        await self._processes.find()

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report what QEMU processes say, and that they have ended."""
        self._report = changed
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """End all connections; the processes go on."""
        self._taps.close()
        self._starts.memory.close()
        await self._processes.close()

    def _changed(self, vm: str) -> None:
        if self._report is not None:
            self._report(vm)

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Ask all processes at the same time; a VM without a process costs at most a look at its save."""
        self._taps.release_unused()
        self._starts.memory.drop_old()
        kept = self._saves.all()
        running = [vm for vm in vms if self._processes.get(vm.uuid) is not None]
        looks = await asyncio.gather(*(self._look(vm) for vm in running))
        others = [vm for vm in vms if self._processes.get(vm.uuid) is None]
        found = {vm.uuid: self._guest(vm, Process.NONE, is_saved=vm.uuid in kept) for vm in others}
        return found | {vm.uuid: guest for vm, guest in zip(running, looks, strict=True)}

    async def _look(self, vm: VM) -> Guest:
        try:
            process = await self._processes.process(vm.uuid)
        except Unavailable as error:
            return Guest(unseen=str(error))
        return self._guest(vm, process, is_saved=True)

    def _guest(self, vm: VM, process: Process, *, is_saved: bool) -> Guest:
        row = life(process, self._saves.of(vm.uuid) if is_saved else SaveState.NONE)
        state, reason = row.state, ""
        if process is Process.NONE and state is GuestState.OFF:
            state, reason = self._processes.end(vm.uuid)
        note = refusal(self._saves.directory / vm.uuid) if row.start is Start.REFUSED else ""
        if (machine := self._processes.get(vm.uuid)) is not None:
            nics = tuple(Nic(nic.mac, nic.bridge, nic.tap) for nic in machine.launch.nics)
        else:
            nics = tuple(Nic(nic.mac, nic.bridge) for nic in domain_spec(vm, self._settings.bridge).nics)
        return Guest(state, reason=reason, note=note, nics=nics)

    async def discover(self) -> Sequence[Discovered]:
        """Return the guests that have a process: each was made by a vmd for a VM, which may be configured no longer."""
        return [
            Discovered(
                launch.name,
                launch.uuid,
                is_running=True,
                nics=tuple(Nic(nic.mac, nic.bridge, nic.tap) for nic in launch.nics),
            )
            for launch in self._processes.launches()
        ]

    async def _now(self, vm: VM) -> tuple[Process, SaveState]:
        return await self._processes.process(vm.uuid), self._saves.of(vm.uuid)

    # --- starting ---

    async def start(self, vm: VM) -> None:
        """Let a VM run, as the table says."""
        await self._starts.start(vm)

    async def reserve(self, vm: VM) -> str:
        """Make the taps of the next start, and return the name of the first."""
        return self._starts.reserve(vm)

    # --- stopping ---

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        await stop(vm, how, self, self._clock)

    async def is_off(self, vm: VM) -> bool:
        """Say whether there is nothing that could shut down."""
        return await self._processes.process(vm.uuid) in (Process.NONE, Process.BROKEN)

    async def press(self, vm: VM) -> None:
        """Press the guest's power button."""
        if (machine := self._processes.get(vm.uuid)) is not None:
            await machine.monitor.call("system_powerdown")

    async def destroy(self, vm: VM) -> None:
        """End a guest at once, unless it is paused: then its memory is saved state."""
        process, saved = await self._now(vm)
        if life(process, saved).state is GuestState.PAUSED:
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        if process is not Process.STOPPED:
            await self._processes.kill(vm.uuid)

    async def pause(self, vm: VM) -> None:
        """Stop a guest's processors."""
        process = await self._processes.process(vm.uuid)
        machine = self._processes.get(vm.uuid)
        if machine is not None and process is Process.RUNNING:
            self._saves.drop_state(vm.uuid)  # it is older than the guest, which has run since
            await machine.monitor.call("stop")

    async def suspend(self, vm: VM) -> None:
        """Save a guest's memory to disk, and end its process."""
        process, saved = await self._now(vm)
        if life(process, saved).state is GuestState.SUSPENDED:
            return
        machine = self._processes.get(vm.uuid)
        if machine is None or process not in (Process.RUNNING, Process.STOPPED):
            raise Unavailable(f"{vm.name} does not run: it cannot be suspended")
        if machine.launch.template:  # its disks are on no directory, and end with its process
            raise Refused(f"{vm.name} is a clone: it cannot be suspended", hint="use pause, shutdown or destroy")
        await self.pause(vm)
        self._saves.drop_state(vm.uuid)
        try:
            with self._saves.begin(vm.uuid) as into:
                await save(machine, self._users.user(vm.uuid), into)
            await self._threads.run(lambda: self._saves.complete(vm.uuid, machine.launch))
        except (JitsuError, OSError) as error:
            if process is Process.RUNNING and self._saves.of(vm.uuid) is not SaveState.SAVED:
                await machine.monitor.call("cont")
            raise Unavailable(f"{vm.name} could not be suspended: {error}") from None
        if not vm.value("standby"):
            await self._processes.kill(vm.uuid)

    async def discard(self, vm: VM) -> None:
        """Delete what is kept of a VM, in memory and on disk."""
        if await self._processes.process(vm.uuid) is Process.RUNNING:
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        await self._processes.kill(vm.uuid)
        self._saves.discard(vm.uuid)

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM."""
        process, saved = await self._now(vm)
        if process is Process.RUNNING:
            raise Unavailable("its QEMU process runs")
        if is_kept(process, saved):
            where = "its QEMU process, which is paused" if saved is SaveState.NONE else self._saves.directory / vm.uuid
            raise Unavailable(f"its memory is kept: {where}")
        await self._processes.kill(vm.uuid)
        self._saves.delete(vm.uuid)
        shutil.rmtree(self._directory / vm.uuid, ignore_errors=True)
        if self._users.known(vm.uuid) is not None:
            self._users.forget(vm.uuid)
