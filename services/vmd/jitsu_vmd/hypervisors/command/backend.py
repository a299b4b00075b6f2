"""command: VMs that are driven by commands of the host's jitsu.toml. README.md has the life of one.

What is run is decided by the section that a VM names (wires/section.py), what is believed of the VM by rules/guest.py,
and one VM's calls are in wires/guest.py. This file joins them to the seam.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed, Refused
from jitsu_vmd.hypervisor import Discovered, Examined, Guest
from jitsu_vmd.hypervisors.command.rules import keys
from jitsu_vmd.hypervisors.command.wires.guest import CommandGuest
from jitsu_vmd.hypervisors.command.wires.records import CommandRecords
from jitsu_vmd.hypervisors.command.wires.section import CommandSection
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.command.rules.reports import StateReport

FIRST_LOOK_S = 5.0
"""A look waits that long for the states of VMs that were never seen; those of others are known."""


def make(world: World, _: HypervisorConnection) -> Commands:
    """Return what this host's commands drive."""
    return Commands(world)


class Commands:
    """The VMs of this host that name a section [command.NAME]."""

    name = "command"

    def __init__(self, world: World) -> None:
        self._world = world
        self._sections = {
            name: CommandSection(name, each, world.clock) for name, each in world.settings.command.items()
        }
        self._records = CommandRecords(world.settings.bus.directory.absolute() / "commands")
        self._guests: dict[str, CommandGuest] = {}
        self._named: dict[str, str] = {}
        """Name of a VM -> its uuid."""
        self._report: Callable[[str], None] | None = None

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if the section that a VM names does not exist, or has no command for its stop mode."""
        keys.check_section(vm, self._sections)
        name = vm.key("command")
        keys.check_stop_mode(vm, name, self._sections[name].commands)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for programs that are not there."""
        return {vm.uuid: examined(vm, self.check, keys.check_keys, self._check_programs) for vm in vms}

    def _check_programs(self, vm: VM) -> None:
        section = self._sections[vm.key("command")]
        for action, words in section.commands.items():
            if not section.settings.shell and shutil.which(words[0], path=section.path) is None:
                raise Refused(f"command: {section.says(action, f'this host has no program {words[0]}')}")

    # --- looking ---

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report what changes, and keep the `watch` commands running."""
        self._report = changed
        watched = [section for section in self._sections.values() if "watch" in section.commands]
        tasks = [asyncio.ensure_future(each.watch(partial(self._watched, each))) for each in watched]
        try:
            await asyncio.gather(*tasks, asyncio.Event().wait())
        finally:
            for task in tasks:
                task.cancel()

    def _changed(self, uuid: str) -> None:
        if self._report is not None:
            self._report(uuid)

    def _watched(self, section: CommandSection, name: str, report: StateReport | None) -> None:
        """Take in a line of `watch`."""
        if not name:
            for each in list(self._guests.values()):
                if each.section is section:
                    each.watched(None)
            return
        guest = self._guests.get(name) or self._guests.get(self._named.get(name, ""))
        if guest is not None and guest.section is section and name in (guest.vm.name, guest.vm.uuid):
            guest.watched(report)

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Return what is believed of these VMs; those that were never seen are looked at."""
        known = [guest for vm in vms if (guest := self._known(vm)) is not None]
        unseen = [guest for guest in known if not guest.is_known()]
        if unseen:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK_S):
                    await asyncio.gather(*(each.seen.wait() for each in unseen))
        return {guest.vm.uuid: guest.view() for guest in known}

    def _known(self, vm: VM) -> CommandGuest | None:
        """Return what is kept of a VM, None if it names no section that there is: nothing can run it."""
        section = self._sections.get(vm.key("command"))
        known = self._guests.get(vm.uuid)
        if known is not None and known.section is section:
            if known.vm.name != vm.name:
                self._unname(known.vm)
                self._named[vm.name] = vm.uuid
            known.vm = vm
            return known
        self._drop(vm.uuid)
        if section is None:
            return None
        self._named[vm.name] = vm.uuid
        made = self._guests[vm.uuid] = CommandGuest(vm, section, self._records, self._world, self._changed)
        return made

    def _drop(self, uuid: str) -> None:
        if (guest := self._guests.pop(uuid, None)) is not None:
            guest.close()
            self._unname(guest.vm)

    def _unname(self, vm: VM) -> None:
        """Forget a VM's name, unless another VM has it now: two may have swapped theirs."""
        if self._named.get(vm.name) == vm.uuid:
            del self._named[vm.name]

    def _existing(self, vm: VM) -> CommandGuest:
        """Return what is kept of a VM; raises BootFailed if nothing can run it."""
        guest = self._known(vm)
        if guest is None:
            raise BootFailed(f"command: there is no section [command.{vm.key('command')}]")
        return guest

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a VM run."""
        await self._existing(vm).start()

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        await self._existing(vm).stop(how)

    async def discard(self, vm: VM) -> None:
        """Delete what was saved of a VM."""
        await self._existing(vm).discard()

    async def forget(self, vm: VM) -> None:
        """Watch a VM no longer; what was saved of it stays."""
        if (guest := self._known(vm)) is not None:
            await guest.forget()
            self._drop(vm.uuid)

    # --- for `jitsu discover` ---

    async def discover(self) -> Sequence[Discovered]:
        """Return the machines that the `states` commands print; a section without one cannot tell."""
        listing = [section for section in self._sections.values() if "states" in section.commands]
        return [
            Discovered(name, is_running=report.state is GuestState.RUNNING, keys={"command": section.name})
            for section in listing
            for name, report in (await section.states())[0].items()
        ]
