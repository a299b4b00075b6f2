"""solo5: unikernels under the tenders of Solo5, each a process with a tap of its own. README.md has the life of one.

This file joins the parts: what a VM's keys ask for (rules/), taps (wires/tap_pool.py), and the launcher, which has the
processes (wires/launcher.py, reached through wires/client.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import HandoverKind, StopMode
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.rules.spec import nth_mac
from jitsu_vmd.hypervisors.shared.this_host import check_parts
from jitsu_vmd.hypervisors.shared.threads import Threads
from jitsu_vmd.hypervisors.solo5.rules import command_line, keys
from jitsu_vmd.hypervisors.solo5.rules.command_line import CommandFault
from jitsu_vmd.hypervisors.solo5.rules.manifest import ManifestFault
from jitsu_vmd.hypervisors.solo5.rules.users import Users, UsersFault, user_range
from jitsu_vmd.hypervisors.solo5.wires.addresses import BridgeAddresses
from jitsu_vmd.hypervisors.solo5.wires.client import LauncherClient
from jitsu_vmd.hypervisors.solo5.wires.images import SoloImages, closed_to_tenders
from jitsu_vmd.hypervisors.solo5.wires.kvm import DEVICE, LIMIT_S, kvm_runs
from jitsu_vmd.hypervisors.solo5.wires.names import DIRECTORY, USERS, tap_prefix
from jitsu_vmd.hypervisors.solo5.wires.tap_pool import TapPool
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.solo5.rules.manifest import Manifest

RESERVED_S = 5.0
"""A start comes once Synjitsu has answered, within a second."""
FEW = 500
"""Up to this many guests are asked for by their UUIDs; for more, all are listed."""
_STOP_MODES = {
    StopMode.SHUTDOWN: "a tender has no button that the guest could be asked with",
    StopMode.SUSPEND: "a tender cannot save a guest",
}

log = structlog.get_logger("solo5")


def make(world: World, connection: Connection) -> Solo5:
    """Return the tenders of this host, whose launcher others may run."""
    return Solo5(world, connection.uri)


@dataclass(frozen=True)
class Reserved:
    """The taps of a start that is about to come."""

    taps: list[str]
    user: int
    bridges: list[str]
    since: float


class Solo5:
    """The unikernels of this host that are run by tenders."""

    name = "solo5"

    def __init__(self, process: World, connect: str = "") -> None:
        self._settings = process.settings.hypervisor
        is_others = connect.startswith("/")
        self._directory = Path(connect) if is_others else process.settings.bus.directory.absolute() / DIRECTORY
        self._images = SoloImages()
        self._addresses = BridgeAddresses()
        self.launcher = LauncherClient(self._directory, is_others=is_others)
        self.launcher.ended = self._ended
        self._threads = Threads("solo5")
        self._pool = TapPool(tap_prefix(self._directory), self._settings.taps, self._threads.run)
        self._users = Users(range(1))
        self._kvm = asyncio.Event()
        self._has_kvm = False
        self._changed: Callable[[str], None] = lambda _: None
        self._guests: dict[str, dict[str, Any]] = {}
        """What the launcher has said of each guest, for those whose taps are taken."""
        self._reserved: dict[str, Reserved] = {}
        """VM -> the taps that are taken for its next start."""
        self._busy: set[str] = set()
        """Guests that are being started or ended here: what a look says of them is not acted upon."""

    # --- what it can run ---

    def check(self, vm: VM) -> None:
        """Raise Refused if no tender can do what a VM's keys ask for."""
        try:
            manifest = self._manifest(vm)
            tender = self._tender(vm, manifest)
            command_line.bridges(vm, manifest, self._settings.bridge)
            for path in command_line.disks(vm, manifest).values():
                if not os.path.exists(path):
                    raise Refused(f"disk: there is no file {path}")
                if closed := closed_to_tenders(os.path.dirname(path), stat.S_IXOTH):
                    raise Refused(f"disk: a tender cannot open {path}: {closed}")
            command_line.arguments(vm, self._networks(vm))
        except CommandFault as fault:
            raise Refused(str(fault)) from None
        if closed := closed_to_tenders(vm.key("kernel"), stat.S_IROTH):
            raise Refused(f"kernel: a tender cannot read it: {closed}")
        if closed := closed_to_tenders(tender, stat.S_IROTH | stat.S_IXOTH):
            raise Refused(f"hypervisor.tender: its user cannot run it: {closed}")

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for mistakes. No VM is said to write to a disk, because none can be shut down."""
        return {vm.uuid: examined(vm, keys.check_unused, check_parts) for vm in vms}

    def _manifest(self, vm: VM) -> Manifest:
        """Return what a VM's image needs; raises CommandFault if solo5 can never run the VM."""
        if why := _STOP_MODES.get(vm.stop_mode, ""):
            raise CommandFault(f"stop_mode: {vm.stop_mode} is not possible with solo5: {why}; use destroy or pause")
        keys.check_possible(vm)
        if int(vm.key("vcpus")) != 1:
            raise CommandFault("vcpus: a Solo5 unikernel has one processor")
        if vm.handover is not HandoverKind.REPLAY:
            raise CommandFault("handover: there is no Xenstore with solo5; use replay")
        path = vm.key("kernel")
        if not path:
            raise CommandFault("kernel: is required with solo5: the image of the unikernel")
        if not os.path.isabs(path):
            raise CommandFault(f"kernel: {path} must be an absolute path")
        try:
            return self._images.manifest(path, self._tool())
        except ManifestFault as fault:
            raise CommandFault(f"kernel: {path}: {fault}") from None

    def _tool(self) -> str:
        """Return the solo5-elftool that is beside the tender, or on PATH; "" if there is none."""
        beside = Path(self._settings.tender).parent / "solo5-elftool"
        if self._settings.tender and os.access(beside, os.X_OK):
            return str(beside)
        return shutil.which("solo5-elftool") or ""

    def _tender(self, vm: VM, manifest: Manifest) -> str:
        """Return the program that runs an image; raises CommandFault."""
        path = vm.key("kernel")
        if manifest.target not in ("spt", "hvt"):
            raise CommandFault(f"kernel: {path} is built for {manifest.target}; solo5 runs images for spt and hvt")
        name = self._settings.tender or f"solo5-{manifest.target}"
        found = shutil.which(name)
        if found is None:
            raise CommandFault(
                f"kernel: {path} is built for {manifest.target}, and there is no program {name}; install it, or say"
                " where it is with hypervisor.tender"
            )
        if manifest.target == "hvt" and not self._settings.tender and self._kvm.is_set() and not self._has_kvm:
            raise CommandFault(f"kernel: {path} is built for hvt, and KVM does not work here; build it for spt")
        return os.path.abspath(found)

    def _networks(self, vm: VM) -> list[command_line.Interface]:
        if not command_line.needs_networks(vm):
            return []
        if self._settings.gateways:
            return self._settings.gateways
        return self._addresses.of(vm.bridge or self._settings.bridge)

    # --- the connection ---

    async def open(self) -> None:
        """Find the tenders that run, and have taps ready."""
        if os.geteuid():
            raise SetupFault("solo5 needs root: for taps, and to give each tender a user of its own")
        try:
            self._users = Users(user_range(self._settings.uids), self._read_users(), str(self._directory))
        except UsersFault as fault:
            raise SetupFault(f"hypervisor.uids: {fault}") from None
        await self.launcher.connect()
        await self._list(None)
        taken = [name for guest in self._guests.values() for name in guest["taps"]]
        await self._pool.open(taken, self._settings.bridge)
        if shutil.which("solo5-hvt"):
            self._has_kvm = await kvm_runs()
            if not self._has_kvm:
                log.warning("KVM does not work here: images for hvt cannot be run", device=DEVICE, limit_s=LIMIT_S)
        self._kvm.set()

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report guests that end."""
        self._changed = changed
        await asyncio.Event().wait()

    def _ended(self, uuid: str) -> None:
        """A guest has ended, by itself or not, or ("") the connection to the launcher has."""
        self._changed(uuid)

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Ask the launcher for these guests."""
        await self._release_unused()
        listed = await self._list([vm.uuid for vm in vms] if len(vms) <= FEW else None)
        return {vm.uuid: self._guest(vm, listed.get(vm.uuid)) for vm in vms}

    async def _list(self, uuids: list[str] | None) -> dict[str, dict[str, Any]]:
        """Ask for some guests, or all; what has ended gives back its taps."""
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

    def _guest(self, vm: VM, told: dict[str, Any] | None) -> Guest:
        if told is None or told["state"] == "ended":
            bridges = vm.config.get("nic", (self._settings.bridge,))
            nics = tuple(Nic(nth_mac(vm.mac, n), bridge) for n, bridge in enumerate(bridges))
            if told is None:
                return Guest(GuestState.OFF, nics=nics)
            state = GuestState.OFF if told["status"] == 0 else GuestState.CRASHED
            return Guest(state, reason=str(told["reason"]), nics=nics)
        state = GuestState.PAUSED if told["state"] == "paused" else GuestState.RUNNING
        nics = tuple(Nic(*each) for each in zip(told["macs"], told["bridges"], told["taps"], strict=True))
        return Guest(state, told["up_s"] if state is GuestState.RUNNING else None, nics=nics)

    # --- changes ---

    async def start(self, vm: VM) -> None:
        """Start a tender, or let a paused one go on."""
        if vm.uuid in self._guests:  # else it is off: a cold start, in which a question would cost a client time
            told = (await self._list([vm.uuid])).get(vm.uuid, {"state": "off"})
            if told["state"] == "running":
                return
            if told["state"] == "paused":
                await self._call("continue", vm)
                return
        try:
            manifest = self._manifest(vm)
            await self._boot(vm, manifest, self._tender(vm, manifest))
        except CommandFault as fault:
            raise BootFailed(str(fault)) from None

    async def _boot(self, vm: VM, manifest: Manifest, tender: str) -> None:
        """Have everything that a tender needs, and have it started; raises CommandFault or BootFailed."""
        self._busy.add(vm.uuid)
        try:
            await self._start_tender(vm, manifest, tender)
        finally:
            self._busy.discard(vm.uuid)

    async def _start_tender(self, vm: VM, manifest: Manifest, tender: str) -> None:
        user = self._user(vm)
        bridges = command_line.bridges(vm, manifest, self._settings.bridge)
        files = list(command_line.disks(vm, manifest).values())
        words = command_line.arguments(vm, self._networks(vm))
        for path in files:
            self._refuse_shared(vm, path)
        taken = await self._taken(vm, user, bridges)
        try:
            record = {
                "uuid": vm.uuid,
                "name": vm.name,
                "user": user,
                "taps": taken,
                "bridges": bridges,
                "macs": [nth_mac(vm.mac, n) for n in range(len(bridges))],
                "disks": files,
            }
            self._guests[vm.uuid] = record
            command = {
                "argv": command_line.tender_command(tender, vm.key("kernel"), vm, manifest, taken, words),
                "user": user,
                "memory_bytes": command_line.memory_mb(vm) << 20,
                "groups": _groups_of_kvm() if manifest.target == "hvt" else [],
            }
            answer = await self.launcher.call("start", uuid=vm.uuid, command=command, record=record)
            if answer["error"]:
                raise BootFailed(f"the tender could not be started: {answer['error']}")
        except Unavailable:
            raise  # it may have been started: the next look says so, and gives back the taps if it was not
        except JitsuError:
            self._guests.pop(vm.uuid, None)
            await self._pool.release(taken, user, bridges[: len(taken)])
            raise

    async def reserve(self, vm: VM) -> str:
        """Take the taps of the next start, and return the name of the first, or "" if the guest is there."""
        if vm.uuid in self._guests or vm.uuid in self._busy:
            return ""
        try:
            bridges = command_line.bridges(vm, self._manifest(vm), self._settings.bridge)
        except CommandFault as fault:
            raise BootFailed(str(fault)) from None
        user = self._user(vm)
        taken = await self._taken(vm, user, bridges)
        self._reserved[vm.uuid] = Reserved(taken, user, bridges, monotonic())
        return taken[0] if taken else ""

    async def _taken(self, vm: VM, user: int, bridges: list[str]) -> list[str]:
        """Return the taps that were reserved for a start, or take others; raises BootFailed."""
        reserved = self._reserved.pop(vm.uuid, None)
        if reserved is not None and (reserved.user, reserved.bridges) == (user, bridges):
            return reserved.taps
        if reserved is not None:
            await self._pool.release(reserved.taps, reserved.user, reserved.bridges)
        taken: list[str] = []
        try:
            for bridge in bridges:
                taken.append(await self._pool.take(user, bridge))
        except BootFailed:
            await self._pool.release(taken, user, bridges[: len(taken)])
            raise
        return taken

    async def _release_unused(self) -> None:
        """Give back the taps of starts that have not come."""
        until = monotonic() - RESERVED_S
        for uuid in [uuid for uuid, each in self._reserved.items() if each.since < until]:
            each = self._reserved.pop(uuid)
            await self._pool.release(each.taps, each.user, each.bridges)

    def _refuse_shared(self, vm: VM, path: str) -> None:
        """Raise BootFailed if another VM that runs has this disk."""
        other = next((uuid for uuid, each in self._guests.items() if uuid != vm.uuid and path in each["disks"]), "")
        if other:
            raise BootFailed(f"disk: {path} is in use by another VM, {self._guests[other].get('name', other)}")

    async def discard(self, vm: VM) -> None:
        """End a paused guest, whose memory is its saved state, and forget why an ended one has ended."""
        told = (await self._list([vm.uuid])).get(vm.uuid)
        if told is not None and told["state"] == "running":
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        if told is not None:
            await self._kill(vm)

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        match how:
            case StopMode.DESTROY:
                await self._destroy(vm)
            case StopMode.SHUTDOWN:
                await self._shut_down(vm)
            case StopMode.SUSPEND:
                await self._suspend(vm)
            case StopMode.PAUSE:
                await self._pause(vm)

    async def _shut_down(self, vm: VM) -> None:
        """End a guest at once: there is no way to ask it, and `stop_mode = shutdown` is refused (`refusal`)."""
        await self._destroy(vm)

    async def _suspend(self, vm: VM) -> None:
        """It cannot be done."""
        raise Refused(f"{vm.name} cannot be suspended: {_STOP_MODES[StopMode.SUSPEND]}", hint="stop_mode = pause")

    async def _destroy(self, vm: VM) -> None:
        """End a guest at once, unless it is paused: then its memory is saved state."""
        told = (await self._list([vm.uuid])).get(vm.uuid)
        if told is not None and told["state"] == "paused":
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        if told is not None:
            await self._kill(vm)

    async def _kill(self, vm: VM) -> None:
        self._busy.add(vm.uuid)
        try:
            await self._call("kill", vm)
            if (guest := self._guests.pop(vm.uuid, None)) is not None:
                await self._release(guest)
        finally:
            self._busy.discard(vm.uuid)

    async def _pause(self, vm: VM) -> None:
        """Stop a guest where it is."""
        await self._call("pause", vm)

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM: its console, and what says which user it has."""
        told = (await self._list([vm.uuid])).get(vm.uuid)
        if told is not None and told["state"] == "paused":
            raise Unavailable("its memory is kept: the tender is paused", hint="kill the tender if nobody needs it")
        if told is not None and told["state"] == "running":
            raise Unavailable("its tender runs")
        user = self._users.taken.get(vm.uuid)
        files = [text.rpartition("@")[0] or text for text in vm.config.get("disk", ())] if user is not None else []
        await self._call("forget", vm, user=user, disks=files)
        if user is not None:
            self._users.forget(vm.uuid)
            self._write_users()

    async def _call(self, call: str, vm: VM, **arguments: Any) -> None:
        answer = await self.launcher.call(call, uuid=vm.uuid, **arguments)
        if answer["error"]:
            raise Unavailable(f"{vm.name}: {answer['error']}")

    async def _release(self, guest: dict[str, Any]) -> None:
        """Take back the taps of a guest that has ended."""
        await self._pool.release(guest["taps"], guest["user"], guest["bridges"])

    # --- users ---

    def _user(self, vm: VM) -> int:
        known = vm.uuid in self._users.taken
        try:
            user = self._users.user(vm.uuid)
        except UsersFault as fault:
            raise BootFailed(str(fault)) from None
        if not known:
            self._write_users()
        return user

    def _read_users(self) -> dict[str, int]:
        try:
            taken = json.loads((self._directory / USERS).read_text())
        except (OSError, ValueError):
            return {}
        return {str(uuid): int(user) for uuid, user in taken.items()}

    def _write_users(self) -> None:
        """Write down who has which user, before anything runs as that user."""
        new = self._directory / f"{USERS}.new"
        new.write_text(json.dumps(self._users.taken))
        new.rename(self._directory / USERS)


def _groups_of_kvm() -> list[int]:
    """Return the group that may open /dev/kvm."""
    with suppress(OSError):
        about = os.stat(DEVICE)
        return [] if about.st_mode & 0o006 == 0o006 else [about.st_gid]
    return []
