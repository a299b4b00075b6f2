"""Starting a VM: a boot, a saved guest, one on standby, or a clone. rules/life.py and rules/clones.py decide."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed, JitsuError
from jitsu_vmd.hypervisors.qemu.rules.clones import SCRIPT, SEED_BYTES, clone_of, environment, missing, why_not
from jitsu_vmd.hypervisors.qemu.rules.command_line import AGENT, command_line
from jitsu_vmd.hypervisors.qemu.rules.life import SaveState, Start, life
from jitsu_vmd.hypervisors.qemu.rules.plan import launch_of, nics_of
from jitsu_vmd.hypervisors.qemu.wires.agent import GuestAgent
from jitsu_vmd.hypervisors.qemu.wires.firmware import give_variables, host_firmware
from jitsu_vmd.hypervisors.qemu.wires.spawn import RunsAs, Spawned
from jitsu_vmd.hypervisors.qemu.wires.state import load
from jitsu_vmd.hypervisors.qemu.wires.templates import TemplateMemory
from jitsu_vmd.hypervisors.shared import taps
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch
    from jitsu_vmd.hypervisors.qemu.wires.machine import QemuProcess
    from jitsu_vmd.hypervisors.qemu.wires.machines import QemuProcesses
    from jitsu_vmd.hypervisors.qemu.wires.reserved_taps import ReservedTaps
    from jitsu_vmd.hypervisors.qemu.wires.saves import GuestSaves
    from jitsu_vmd.hypervisors.shared.threads import Threads
    from jitsu_vmd.hypervisors.shared.user_file import UserFile

DEFAULT_TSC_KHZ = 2_000_000


@dataclass(frozen=True)
class Host:
    """What the VMs of one connection share."""

    directory: Path
    bridge: str
    """Of a VM that names none."""
    users: UserFile
    saves: GuestSaves
    processes: QemuProcesses
    taps: ReservedTaps
    threads: Threads
    clock: Clock


@dataclass
class Emulator:
    """The program, as it is found when vmd connects."""

    path: str = ""
    is_kvm: bool = False


class GuestStarts:
    """The starts of the VMs of one connection."""

    def __init__(self, host: Host, emulator: Emulator) -> None:
        self._host = host
        self._emulator = emulator
        self._saves = host.saves
        self._processes = host.processes
        self.memory = TemplateMemory(host.saves, host.threads.run)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By VM: a template is not started while its memory is copied."""

    async def start(self, vm: VM) -> None:
        """Let a VM run, as the table says."""
        async with self._locks[vm.uuid]:
            process, saved = await self._processes.process(vm.uuid), self._saves.of(vm.uuid)
            match life(process, saved).start:
                case Start.REFUSED:
                    raise BootFailed(refusal(self._saves.directory / vm.uuid))
                case Start.BOOT:
                    await (self._clone(vm) if vm.key("template") else self._boot(vm))
                case Start.LOAD:
                    await self._load(vm)
                case Start.CONTINUE | Start.MARK_AND_CONTINUE:
                    await self._continue(vm, saved)
                case Start.NOTHING:
                    self._saves.drop_state(vm.uuid)

    def reserve(self, vm: VM) -> str:
        """Make the taps of the next start, and return the name of the first; those of a clone stay off the bridge."""
        if (machine := self._processes.get(vm.uuid)) is not None:
            nics = machine.launch.nics
            return nics[0].tap if nics else ""
        if self._saves.of(vm.uuid) is SaveState.NONE:
            if vm.key("template"):
                return ""
            nics = nics_of(domain_spec(vm, self._host.bridge), str(self._host.directory))
        else:
            try:
                nics = self._saves.launch(vm.uuid).nics
            except (OSError, ValueError):
                return ""  # the start meets the same fault, and reports it
        return self._host.taps.reserve(vm.uuid, nics)

    async def _boot(self, vm: VM) -> None:
        firmware = host_firmware() if vm.value("firmware") == "uefi" else None
        spec = domain_spec(vm, self._host.bridge)
        program = firmware.program if firmware is not None else ""
        launch = launch_of(vm, spec, str(self._host.directory), is_kvm=self._emulator.is_kvm, firmware=program)
        await self._processes.kill(vm.uuid)
        self._saves.drop_state(vm.uuid)
        if launch.shares_memory:
            self._saves.make_ram(vm.uuid)
        if firmware is not None:
            self._saves.make(vm.uuid)
            give_variables(firmware, self._saves.variables(vm.uuid))
        machine = await self._launched(launch, is_incoming=False)
        await machine.monitor.call("cont")

    async def _load(self, vm: VM) -> None:
        await self._processes.kill(vm.uuid)
        try:
            launch = self._saves.launch(vm.uuid)
            with self._saves.path(vm.uuid, SaveState.SAVED).open("rb") as state:
                machine = await self._launched(launch, is_incoming=True)
                await load(machine, state)
        except (JitsuError, OSError, ValueError) as error:
            await self._processes.kill(vm.uuid)
            raise BootFailed(f"its save cannot be loaded: {error}") from None
        await self._continue(vm, SaveState.SAVED)

    async def _continue(self, vm: VM, saved: SaveState) -> None:
        if (machine := self._processes.get(vm.uuid)) is None:
            raise BootFailed(f"QEMU of {vm.name} has ended")
        if saved is SaveState.SAVED:
            await self._host.threads.run(lambda: self._saves.becomes(vm.uuid, SaveState.SAVED, SaveState.USED))
        await machine.monitor.call("cont")
        self._saves.drop_state(vm.uuid)

    async def _launched(
        self, launch: Launch, *, is_incoming: bool, files_of: str = "", memory: int = -1
    ) -> QemuProcess:
        """Start a process; `files_of` is the VM whose files it has, and `memory` a template's, if it is a clone."""
        user = self._host.users.user(launch.uuid)
        files = self._saves.files(files_of or launch.uuid)
        if launch.shares_memory:
            os.chown(files.ram, user, user)
        runs_as = RunsAs(user, [os.stat("/dev/kvm").st_gid] if launch.is_kvm else [])
        words = partial(command_line, self._emulator.path, launch, tsc_khz=_tsc_khz(), is_incoming=is_incoming)
        return await self._processes.launch(Spawned(launch, runs_as, files, words, memory))

    # --- clones ---

    async def _clone(self, vm: VM) -> None:
        """Make a VM from its template; a clone that does not get an identity of its own is ended."""
        await self._processes.kill(vm.uuid)
        template = self._template(vm.key("template"))
        try:
            async with self._locks[template]:
                if why := why_not(await self._processes.process(template), self._saves.of(template)):
                    raise BootFailed(f"template: no clone of {vm.value('template')} can be made: {why}")
                nics = nics_of(domain_spec(vm, self._host.bridge), str(self._host.directory))
                launch = clone_of(self._saves.launch(template), vm.name, vm.uuid, nics)
                memory = os.dup(await self.memory.of(template))
                state = self._saves.path(template, SaveState.SAVED).open("rb")
        except (OSError, ValueError) as error:
            raise BootFailed(f"template: no clone of {vm.value('template')} can be made: {error}") from None
        try:
            await self._identified(vm, launch, memory, state)
        except (JitsuError, OSError) as error:
            await self._processes.kill(vm.uuid)
            raise BootFailed(f"it cannot be cloned from {vm.value('template')}: {error}") from None
        finally:
            os.close(memory)
            state.close()

    def _template(self, name: str) -> str:
        running = {launch.uuid for launch in self._processes.launches() if launch.name == name}
        found = running | set(self._saves.named(name))
        if len(found) != 1:
            what = "several VMs" if found else "no VM"
            raise BootFailed(f"template: {what} of the name {name} can be found suspended on this host")
        return found.pop()

    async def _identified(self, vm: VM, launch: Launch, memory: int, state: BinaryIO) -> None:
        """Start a clone, and have its guest take an identity; raises JitsuError or OSError."""
        machine = await self._launched(launch, is_incoming=True, files_of=launch.template, memory=memory)
        await load(machine, state)
        await machine.monitor.call("cont")
        addresses = [str(address) for address in vm.addresses]
        told = environment(launch, addresses, secrets.token_bytes(SEED_BYTES), self._host.clock.wall())
        with await machine.connected(AGENT) as made:
            said = await GuestAgent(made).run(SCRIPT, told)
        if left := missing(said, shares_identity=vm.value("shared_identity")):
            raise BootFailed(f"{SCRIPT} in the guest does not say that it has changed: {', '.join(left)}")
        for nic in launch.nics:
            taps.join(nic.tap, nic.bridge)
        machine.finish()
        with suppress(JitsuError):  # a guest that does not announce itself is found when it sends something
            await machine.monitor.call("announce-self", **_ANNOUNCES)


_ANNOUNCES = {"initial": 50, "max": 550, "rounds": 3, "step": 50}
"""In ms; the first one is sent at once."""


def refusal(kept: Path) -> str:
    """Return why a VM whose save may have been used is not started."""
    return f"its save in {kept} may have been used before: it is not restored again"


def _tsc_khz() -> int:
    """Return the frequency of this host's time stamp counter, which an emulated guest sees too."""
    with open("/proc/cpuinfo") as file:
        found = [line.partition(":")[2] for line in file if line.startswith("cpu MHz")]
    try:
        return int(float(found[0]) * 1000)
    except (IndexError, ValueError):
        return DEFAULT_TSC_KHZ
