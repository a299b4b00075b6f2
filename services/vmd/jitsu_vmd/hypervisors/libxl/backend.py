"""libxl, through xl(1): domains that are made for VMs, and Xenstore.

A domain is created paused; what the guest is to find in Xenstore is written; then it is let run. What was suspended is
a file in `hypervisor.save_directory`, whose name says whether it may be restored (wires/saves.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import BootFailed, NotFound, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.xenstore import Xenstore
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.rules import means
from jitsu_vmd.rules import xl as rules
from jitsu_vmd.rules.domain import nth_mac
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.rules.image import ImageFault
from jitsu_vmd.wires import commands
from jitsu_vmd.wires.images import Images
from jitsu_vmd.wires.parts import absent_part, is_absent
from jitsu_vmd.wires.saves import SAVED, SUFFIXES, Saves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World

GONE_S = 5.0
"""After a failed `xl destroy` the domain may still vanish within this time."""
LOOK_LIMIT_S = 10.0
ASK_AGAIN_S, WATCH_S = 5.0, 0.25
DOMAINS = ("@introduceDomain", "@releaseDomain")
"""Xenstore's watches for domains that come and go (docs/misc/xenstore.txt)."""
_RESTORE = 'xl restore -p "$1" || exit 3; mv "$1" "$2" && xl unpause "$3"'
"""In one process, which goes on when vmd dies. The guest does not run before its save is marked as used."""
_NOT_RESTORED = 3
_DISCARD = "`jitsu start {} --discard-saved-state` deletes it and boots from the disk"

log = structlog.get_logger("vmd")


def make(world: World, _: Connection) -> Libxl:
    """Return the hypervisor of this dom0."""
    return Libxl(world)


class Libxl:
    """The domains of this dom0."""

    name = "libxl (xl)"

    def __init__(self, process: World) -> None:
        self._settings = process.settings.hypervisor
        self._directory = process.settings.bus.directory / "xl"
        self._images = Images()
        self._saves = Saves(Path(self._settings.save_directory))
        self._changes: Counter[str] = Counter()
        """VM -> how often its saves were changed here: a look that began before that removes none of them."""
        self._xenstore = Xenstore(self._settings.xenstore, process.spawn)

    def check(self, vm: VM) -> None:
        """Raise Refused if libxl cannot do what a VM's keys ask for."""
        missing = [key for key in ("kernel", "initrd") if vm.key(key) and is_absent(vm.key(key))]
        if missing:
            raise Refused(f"{missing[0]}: there is no file {vm.key(missing[0])}")
        try:
            self._config(vm)
            self._rumprun(vm)
        except (rules.XlFault, ImageFault) as fault:
            raise Refused(str(fault)) from None

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that count for nothing, and for files and bridges that are not there."""
        return {
            vm.uuid: Examined(means.of_libxl(vm) or absent_part(vm), writes_to_disk="disk" in vm.config) for vm in vms
        }

    def _config(self, vm: VM) -> str:
        if not vm.key("kernel"):
            raise rules.XlFault("kernel: is required on libxl")
        return rules.config(vm, self._settings.bridge, self._images.guest_type(vm))

    @staticmethod
    def _rumprun(vm: VM) -> str:
        path = vm.key("rumprun_config")
        if not path:
            return ""
        try:
            return rules.rumprun(Path(path).read_text())
        except OSError as error:
            raise rules.XlFault(f"rumprun_config: {path} cannot be read: {error.strerror}") from None

    async def open(self) -> None:
        """See that xl and Xenstore answer."""
        try:
            await self._list()
        except FileNotFoundError:
            raise SetupFault("xl is not installed", hint="apt-get install xen-utils, and boot Xen") from None
        await self._xenstore.children("/")

    async def run(self, changed: Callable[[str], None]) -> None:
        """Tell when domains come and go."""
        for path in DOMAINS:
            await self._xenstore.watch(path, lambda: changed(""))
        await asyncio.Event().wait()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs' domains, and remove each save after which its guest has been seen to run."""
        files, changes = self._saves.all(), dict(self._changes)  # before the list: what is in it ran after these saves
        domains = {each.uuid: each for each in await self._list()}
        found = {}
        for vm in vms:
            own, domain = files.get(vm.uuid, set()), domains.get(vm.uuid)
            if own and _runs(domain) and changes.get(vm.uuid) == self._changes.get(vm.uuid):
                self._saves.remove(vm.uuid, *own - {"new"})
            state, note = self._state(vm, domain, own)
            found[vm.uuid] = Guest(state, nics=self._nics(vm, domain), note=note)
        return found

    def _nics(self, vm: VM, domain: rules.Listed | None) -> tuple[Nic, ...]:
        """Return the interfaces of a VM; xl names the host's end of each vifDOMID.N (xl-network-configuration(5))."""
        bridges = vm.config.get("nic", (self._settings.bridge,))
        vif = "" if domain is None else f"vif{domain.id}."
        return tuple(Nic(nth_mac(vm.mac, n), bridge, vif and f"{vif}{n}") for n, bridge in enumerate(bridges))

    def _state(self, vm: VM, domain: rules.Listed | None, files: set[str]) -> tuple[GuestState, str]:
        """Return what a VM's domain and files say, and what an operator should know about that."""
        if _runs(domain):
            return GuestState.RUNNING, ""
        if reason := self._unusable(vm, domain, files):
            return GuestState.OFF, reason
        if domain is not None and domain.state is GuestState.PAUSED:
            return (GuestState.OFF if "creating" in files else GuestState.PAUSED), ""
        if domain is None and "save" in files:
            return GuestState.SUSPENDED, ""
        return (GuestState.OFF if domain is None else domain.state), ""

    def _unusable(self, vm: VM, domain: rules.Listed | None, files: set[str]) -> str:
        """Return why the saved state of a VM that does not run must not be used, or nothing."""
        if domain is not None and domain.is_saving:
            return f"it is being saved, or that was cut short; {_DISCARD.format(vm.name)}"
        if "restoring" in files:
            path = self._saves.path(vm.uuid, "restoring")
            return (
                f"{path} is being restored, or that was cut short; it is not restored again: {_DISCARD.format(vm.name)}"
            )
        if "used" in files and domain is None:
            path = self._saves.path(vm.uuid, "used")
            return f"{path} was used already and is not restored again; {_DISCARD.format(vm.name)}"
        return ""

    async def start(self, vm: VM) -> None:
        """Let a domain run: continue it if it is paused, restore it from its save, or create it."""
        domain = await self._find(vm)
        if _runs(domain):
            return
        files = self._saves.all().get(vm.uuid, set())
        if reason := self._unusable(vm, domain, files):
            raise BootFailed(reason)
        if domain is not None and (domain.state is not GuestState.PAUSED or "creating" in files):
            await self._destroyed(domain)  # it has ended, or was never let run
            domain = None
        self._changes[vm.uuid] += 1
        if domain is not None:
            await self._continue(vm, domain, files)
        elif "save" in files:
            await self._restore(vm)
        else:
            await self._create(vm)

    async def _continue(self, vm: VM, domain: rules.Listed, files: set[str]) -> None:
        """Let a paused domain run on; a save of it is older than what it does from now on."""
        if "save" in files:
            self._saves.becomes(vm.uuid, "save", "used")
        await self._xl("unpause", str(domain.id))

    async def _restore(self, vm: VM) -> None:
        """Restore a domain from its save, paused, and let it run when that is complete."""
        self._saves.becomes(vm.uuid, "save", "restoring")
        restoring, used = self._saves.path(vm.uuid, "restoring"), self._saves.path(vm.uuid, "used")
        status, _, err = await commands.run("sh", "-c", _RESTORE, "restore", str(restoring), str(used), vm.name)
        if status == _NOT_RESTORED:
            domain = await self._find(vm)
            if domain is not None:
                await self._destroyed(domain)  # it has not run
            self._saves.becomes(vm.uuid, "restoring", "save")
        if status:
            raise Unavailable(f"xl restore: {rules.reason(err) or f'status {status}'}")

    async def _create(self, vm: VM) -> None:
        """Create a domain, write what it is to find in Xenstore, and let it run."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{vm.name}.cfg"
        path.write_text(self._config(vm))
        self._saves.begin_creating(vm.uuid)
        await self._xl("create", "-q", "-p", str(path))
        domain = await self._domain(vm)
        if config := self._rumprun(vm):
            await self._xenstore.change({f"/local/domain/{domain.id}/rumprun/cfg": config})
        await self._xl("unpause", str(domain.id))
        self._saves.remove(vm.uuid, "creating")

    async def discard(self, vm: VM) -> None:
        """Destroy a paused domain, and remove the saves of one that does not run."""
        domain = await self._find(vm)
        if domain is not None and _runs(domain):
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        if domain is not None:
            await self._destroyed(domain)
        self._changes[vm.uuid] += 1
        self._saves.remove(vm.uuid, *SUFFIXES)

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
        """Ask the guest to shut down, until it has or its time is over."""
        ends, asked_at = monotonic() + float(vm.key("shutdown_limit")), 0.0
        while (domain := await self._find(vm)) is not None:
            if monotonic() >= ends:
                log.warning("the guest did not shut down in time and was destroyed", vm=vm.name)
                await self._destroy(vm)
                return
            if monotonic() >= asked_at + ASK_AGAIN_S:
                asked_at = monotonic()
                with suppress(Unavailable):  # it may have gone just now
                    await self._xl("shutdown", "-F", str(domain.id))
            await asyncio.sleep(WATCH_S)

    async def _destroy(self, vm: VM) -> None:
        """Stop a domain at once, unless it is paused: then its memory is saved state."""
        domain = await self._find(vm)
        if domain is None:
            return
        if domain.is_saving or domain.state is GuestState.PAUSED:
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        await self._destroyed(domain)

    async def _suspend(self, vm: VM) -> None:
        """Save a domain to its file: it is destroyed only when that is complete and on the disk."""
        domain = await self._domain(vm)
        if not _runs(domain):
            raise Unavailable(f"{vm.name} does not run: it cannot be saved now")
        self._changes[vm.uuid] += 1
        self._saves.make_directory()
        self._saves.remove(vm.uuid, *SAVED)  # it has run since
        new = str(self._saves.path(vm.uuid, "new"))
        await self._xl("save", "-p", str(domain.id), new)
        status, _, err = await commands.run("sync", new)
        if status:
            raise Unavailable(f"{new} cannot be written to the disk: {rules.reason(err)}")
        self._saves.becomes(vm.uuid, "new", "save")
        await self._destroyed(domain)

    async def _pause(self, vm: VM) -> None:
        """Pause a domain."""
        await self._xl("pause", str((await self._domain(vm)).id))

    async def forget(self, vm: VM) -> None:
        """Remove a VM's configuration; what was saved of it stays."""
        (self._directory / f"{vm.name}.cfg").unlink(missing_ok=True)
        kept = [str(self._saves.path(vm.uuid, each)) for each in SAVED if self._saves.has(vm.uuid, each)]
        if kept:
            raise Unavailable(f"its saved state is kept in {', '.join(kept)}", hint="remove it if nobody needs it")
        domain = await self._find(vm)
        if domain is not None and domain.state is GuestState.PAUSED:
            raise Unavailable("its domain is kept, paused", hint=f"xl destroy {vm.name}")

    async def domain_id(self, vm: VM) -> int | None:
        """Return the domain's id while it is there."""
        domain = await self._find(vm)
        return None if domain is None else domain.id

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in Xenstore."""
        domain = await self._domain(vm)
        await self._xenstore.wait_for(f"/local/domain/{domain.id}/{vm.wait_for_key}")

    async def _destroyed(self, domain: rules.Listed) -> None:
        """Destroy a domain; it may be that one that has ended by itself is being removed by the xl that created it.

        Then both take its network interface away, and one of them fails at that.
        """
        try:
            await self._xl("destroy", str(domain.id))
        except Unavailable:
            ends = monotonic() + GONE_S
            while any(each.id == domain.id for each in await self._list()):
                if monotonic() >= ends:
                    raise
                await asyncio.sleep(WATCH_S)

    async def _domain(self, vm: VM) -> rules.Listed:
        domain = await self._find(vm)
        if domain is None:
            raise NotFound(f"Xen has no domain {vm.name}")
        return domain

    async def _find(self, vm: VM) -> rules.Listed | None:
        return next((each for each in await self._list() if each.uuid == vm.uuid), None)

    async def _list(self) -> list[rules.Listed]:
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return rules.listed(await self._xl("list", "-v", is_look=True))
        except TimeoutError:
            raise Unavailable("xl does not answer") from None

    @staticmethod
    async def _xl(*arguments: str, is_look: bool = False) -> str:
        """Run xl; vmd limits how long that may take."""
        status, out, err = await commands.run("xl", *arguments, is_look=is_look)
        if status:
            raise Unavailable(f"xl {arguments[0]}: {rules.reason(err) or f'status {status}'}")
        return out


def _runs(domain: rules.Listed | None) -> bool:
    return domain is not None and domain.state is GuestState.RUNNING
