"""solo5: unikernels under the tenders of Solo5, each a process with a tap of its own. README.md has the life of one.

This file joins the parts: what a start needs (wires/preparation.py), taps (wires/guest_taps.py), users
(shared/user_file.py), and the launcher, whose children the tenders are (wires/launcher.py, by wires/client.py).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.this_host import check_parts
from jitsu_vmd.hypervisors.shared.threads import Threads
from jitsu_vmd.hypervisors.shared.user_file import UserFile
from jitsu_vmd.hypervisors.solo5.rules import keys
from jitsu_vmd.hypervisors.solo5.wires.client import LauncherClient
from jitsu_vmd.hypervisors.solo5.wires.guest_taps import GuestTaps, Taken
from jitsu_vmd.hypervisors.solo5.wires.names import DIRECTORY, tap_prefix
from jitsu_vmd.hypervisors.solo5.wires.preparation import STOP_MODES, Preparation
from jitsu_vmd.hypervisors.solo5.wires.tap_pool import TapPool
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.solo5.wires.preparation import Plan

FEW = 500
"""Up to this many guests are asked for by their UUIDs; for more, all are listed."""


def make(world: World, connection: HypervisorConnection) -> Solo5:
    """Return the tenders of this host, whose launcher others may run."""
    return Solo5(world, connection.uri)


class Solo5:
    """The unikernels of this host that are run by tenders."""

    name = "solo5"

    def __init__(self, world: World, connect: str = "") -> None:
        self._settings = world.settings.hypervisor
        is_others = connect.startswith("/")  # a URI that is not a path was meant for another kind
        directory = Path(connect) if is_others else world.settings.bus.directory.absolute() / DIRECTORY
        self._preparation = Preparation(self._settings)
        self.launcher = LauncherClient(directory, is_others=is_others)
        self._pool = TapPool(tap_prefix(directory), self._settings.taps, Threads("solo5").run)
        self._taps = GuestTaps(self._pool, world.clock)
        self._users = UserFile(directory, "hypervisor.uids")
        self._guests: dict[str, dict[str, Any]] = {}
        """uuid of a VM -> what the launcher has reported of its guest, for guests whose taps are taken."""
        self._busy: set[str] = set()
        """VMs whose guest is being started or ended here: nothing is done about what a look reports of them."""

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if no tender can do what a VM's keys ask for."""
        self._preparation.check(vm)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for mistakes. No VM is said to write to a disk, because none can be shut down."""
        return {vm.uuid: examined(vm, keys.check_unused, check_parts) for vm in vms}

    # --- looking ---

    async def open(self) -> None:
        """Find the tenders that run, and have taps ready."""
        if os.geteuid():
            raise SetupFault("solo5 needs root: for taps, and to give each tender a user of its own")
        self._users.open(self._settings.uids.ids)
        await self.launcher.connect()
        await self._list(None)
        await self._pool.open(
            [name for guest in self._guests.values() for name in guest["taps"]], self._settings.bridge
        )
        await self._preparation.try_kvm()

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report guests that have ended, and ("") that the connection to the launcher has."""
        self.launcher.ended = changed
        await asyncio.Event().wait()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Ask the launcher for these guests."""
        await self._taps.release_unused()
        listed = await self._list([vm.uuid for vm in vms] if len(vms) <= FEW else None)
        return {vm.uuid: self._guest(vm, listed.get(vm.uuid)) for vm in vms}

    async def _list(self, uuids: list[str] | None) -> dict[str, dict[str, Any]]:
        """Ask for some guests, or all, and give back the taps of those that have ended."""
        if uuids is not None and not uuids:
            return {}
        answer = await self.launcher.call("list", uuids=uuids)
        listed = {str(guest["uuid"]): guest for guest in answer["guests"]}
        running = {uuid: guest for uuid, guest in listed.items() if guest["state"] != "ended"}
        self._guests |= {uuid: guest for uuid, guest in running.items() if uuid not in self._busy}
        asked = self._guests.keys() if uuids is None else self._guests.keys() & set(uuids)
        for guest in [self._guests.pop(uuid) for uuid in asked - running.keys() - self._busy]:
            await self._release(guest)
        return listed

    async def _reported(self, vm: VM) -> dict[str, Any]:
        """Return what the launcher reports of a guest; its state is `off` if the launcher does not know it."""
        return (await self._list([vm.uuid])).get(vm.uuid, {"state": "off"})

    def _guest(self, vm: VM, reported: dict[str, Any] | None) -> Guest:
        if reported is None or reported["state"] == "ended":
            nics = tuple(Nic(nic.mac, nic.bridge) for nic in domain_spec(vm, self._settings.bridge).nics)
            if reported is None:
                return Guest(GuestState.OFF, nics=nics)
            state = GuestState.OFF if reported["status"] == 0 else GuestState.CRASHED
            return Guest(state, reason=str(reported["reason"]), nics=nics)
        state = GuestState.PAUSED if reported["state"] == "paused" else GuestState.RUNNING
        nics = tuple(Nic(*each) for each in zip(reported["macs"], reported["bridges"], reported["taps"], strict=True))
        return Guest(state, reported["up_s"] if state is GuestState.RUNNING else None, nics=nics)

    # --- starting ---

    async def start(self, vm: VM) -> None:
        """Start a tender, or let a paused one go on."""
        if vm.uuid in self._guests:  # else it is off: a cold start, in which a question would cost a client time
            match (await self._reported(vm))["state"]:
                case "running":
                    return
                case "paused":
                    await self._call("continue", vm)
                    return
        try:
            plan = self._preparation.plan(vm)
        except Refused as refused:
            raise BootFailed(str(refused)) from None
        with self._changing(vm):
            await self._boot(vm, plan)

    async def _boot(self, vm: VM, plan: Plan) -> None:
        """Have everything that a tender needs, and have it started; raises BootFailed."""
        user = self._users.user(vm.uuid)
        for path in plan.disks:
            self._refuse_shared(vm, path)
        taken = await self._taps.take(vm.uuid, user, plan.bridges)
        try:
            record = {
                "uuid": vm.uuid,
                "name": vm.name,
                "user": user,
                "taps": taken,
                "bridges": plan.bridges,
                "macs": plan.macs,
                "disks": plan.disks,
            }
            self._guests[vm.uuid] = record
            answer = await self.launcher.call("start", uuid=vm.uuid, command=plan.command(user, taken), record=record)
            if answer["error"]:
                raise BootFailed(f"the tender could not be started: {answer['error']}")
        except Unavailable:
            raise  # it may have been started: the next look says so, and gives back the taps if it was not
        except JitsuError:
            self._guests.pop(vm.uuid, None)
            await self._taps.release(Taken(taken, user, plan.bridges))
            raise

    async def reserve(self, vm: VM) -> str:
        """Take the taps of the next start, and return the name of the first, or "" if the guest is there."""
        if vm.uuid in self._guests or vm.uuid in self._busy:
            return ""
        try:
            bridges = self._preparation.bridges(vm)
        except Refused as refused:
            raise BootFailed(str(refused)) from None
        taken = await self._taps.reserve(vm.uuid, self._users.user(vm.uuid), bridges)
        return taken[0] if taken else ""

    def _refuse_shared(self, vm: VM, path: str) -> None:
        """Raise BootFailed if another VM that runs has this disk."""
        other = next((uuid for uuid, each in self._guests.items() if uuid != vm.uuid and path in each["disks"]), "")
        if other:
            raise BootFailed(f"disk: {path} is in use by another VM, {self._guests[other].get('name', other)}")

    # --- stopping ---

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a guest.

        There is no way to ask one to shut down, and `stop_mode = shutdown` is refused (`check`). A guest that was
        started before that was configured is ended at once.
        """
        match how:
            case StopMode.DESTROY | StopMode.SHUTDOWN:
                await self._destroy(vm)
            case StopMode.SUSPEND:
                raise Refused(f"{vm.name} cannot be suspended: {STOP_MODES[how]}", hint="stop_mode = pause")
            case StopMode.PAUSE:
                await self._call("pause", vm)

    async def _destroy(self, vm: VM) -> None:
        """End a guest at once, unless it is paused: then its memory is saved state."""
        state = (await self._reported(vm))["state"]
        if state == "paused":
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        if state != "off":
            await self._kill(vm)

    async def discard(self, vm: VM) -> None:
        """End a paused guest, whose memory is its saved state, and forget why an ended one has ended."""
        state = (await self._reported(vm))["state"]
        if state == "running":
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        if state != "off":
            await self._kill(vm)

    async def _kill(self, vm: VM) -> None:
        with self._changing(vm):
            await self._call("kill", vm)
            if (guest := self._guests.pop(vm.uuid, None)) is not None:
                await self._release(guest)

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM: its console, and what says which user it has."""
        state = (await self._reported(vm))["state"]
        if state == "paused":
            raise Unavailable("its memory is kept: the tender is paused", hint="kill the tender if nobody needs it")
        if state == "running":
            raise Unavailable("its tender runs")
        user = self._users.known(vm.uuid)
        files = [disk.source for disk in domain_spec(vm, "").disks] if user is not None else []
        await self._call("forget", vm, user=user, disks=files)
        if user is not None:
            self._users.forget(vm.uuid)

    async def _call(self, call: str, vm: VM, **arguments: Any) -> None:
        answer = await self.launcher.call(call, uuid=vm.uuid, **arguments)
        if answer["error"]:
            raise Unavailable(f"{vm.name}: {answer['error']}")

    async def _release(self, guest: dict[str, Any]) -> None:
        """Take back the taps of a guest that has ended."""
        await self._taps.release(Taken(guest["taps"], guest["user"], guest["bridges"]))

    @contextmanager
    def _changing(self, vm: VM) -> Iterator[None]:
        """Do nothing about what a look reports of this VM in the meantime."""
        self._busy.add(vm.uuid)
        try:
            yield
        finally:
            self._busy.discard(vm.uuid)
