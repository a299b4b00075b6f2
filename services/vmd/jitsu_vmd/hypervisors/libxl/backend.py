"""libxl, by way of xl(1): domains of this dom0 that are made for VMs, and Xenstore.

A domain is created paused. What the guest is to find in Xenstore is written, and only then is the domain let run. A
suspended domain is a file in `hypervisor.save_directory`, whose name says whether it may be restored (saves.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import BootFailed, Refused, SetupFault, Unavailable
from jitsu_runtime.xenstore import Xenstore
from jitsu_vmd.hypervisor import Discovered, Examined, Guest, Nic
from jitsu_vmd.hypervisors.libxl import rules
from jitsu_vmd.hypervisors.libxl.saves import SAVED, SUFFIXES, Saves
from jitsu_vmd.hypervisors.libxl.xl import destroy, domains, existing, find, runs, xl
from jitsu_vmd.hypervisors.shared import commands
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.hypervisors.shared.this_host import check_boot_files, check_parts
from jitsu_vmd.hypervisors.shared.xen_images import XenImages
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

DOMAINS = ("@introduceDomain", "@releaseDomain")
"""Xenstore's watches for domains that come and go (docs/misc/xenstore.txt)."""
_RESTORE = 'xl restore -p "$1" || exit 3; mv "$1" "$2" && xl unpause "$3"'
"""In one process, which goes on when vmd dies. The guest does not run before its save is marked as used."""
_NOT_RESTORED = 3
_DISCARD = "`jitsu start {} --discard-saved-state` deletes it and boots from the disk"

log = structlog.get_logger("vmd")


def make(world: World, _: HypervisorConnection) -> Libxl:
    """Return the hypervisor of this dom0."""
    return Libxl(world)


class Libxl:
    """The domains of this dom0."""

    name = "libxl (xl)"

    def __init__(self, world: World) -> None:
        settings = world.settings.hypervisor
        self._clock = world.clock
        self._bridge = settings.bridge
        self._directory = world.settings.bus.directory / "xl"
        self._images = XenImages()
        self.saves = Saves(Path(settings.save_directory))
        self._watched: set[str] = set()
        self._changes: Counter[str] = Counter()
        """uuid of a VM -> how often its saves were changed here: a look that began before that removes none of them."""
        self.xenstore = Xenstore(settings.xenstore, world.spawn)

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if libxl cannot do what a VM's keys ask for."""
        spec = domain_spec(vm, self._bridge)
        check_boot_files(spec)
        self._config(spec)
        _rumprun(spec)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for files and bridges that are not there."""
        checks = (rules.check_keys, check_parts)
        return {vm.uuid: examined(vm, *checks, writes_to_disk="disk" in vm.config) for vm in vms}

    def _config(self, spec: DomainSpec) -> str:
        if not spec.kernel:
            raise Refused("kernel: is required on libxl")
        return rules.config(spec, self._images.guest_type(spec))

    # --- looking ---

    async def open(self) -> None:
        """See that xl and Xenstore answer."""
        try:
            await domains()
        except FileNotFoundError:
            raise SetupFault("xl is not installed", hint="apt-get install xen-utils, and boot Xen") from None
        await self.xenstore.children("/")

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report when domains come and go."""
        for path in DOMAINS:
            if path not in self._watched:  # a watch lasts, also when this is called again
                await self.xenstore.watch(path, lambda: changed(""))
                self._watched.add(path)
        await asyncio.Event().wait()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs' domains, and remove each save after which its guest has been seen to run."""
        files, changes = self.saves.all(), dict(self._changes)  # before the list: what is in it ran after these saves
        by_uuid = {each.uuid: each for each in await domains()}
        found = {}
        for vm in vms:
            own, domain = files.get(vm.uuid, set()), by_uuid.get(vm.uuid)
            if own and runs(domain) and changes.get(vm.uuid) == self._changes.get(vm.uuid):
                self.saves.remove(vm.uuid, *own - {"new"})
            state, note = self._state(vm, domain, own)
            found[vm.uuid] = Guest(state, nics=self._nics(vm, domain), note=note)
        return found

    def _nics(self, vm: VM, domain: rules.Listed | None) -> tuple[Nic, ...]:
        """Return the interfaces of a VM; xl names the host's end of each vifDOMID.N (xl-network-configuration(5))."""
        vif = "" if domain is None else f"vif{domain.id}."
        nics = domain_spec(vm, self._bridge).nics
        return tuple(Nic(nic.mac, nic.bridge, vif and f"{vif}{n}") for n, nic in enumerate(nics))

    def _state(self, vm: VM, domain: rules.Listed | None, files: set[str]) -> tuple[GuestState, str]:
        """Return what a VM's domain and files say, and what an operator should know about that."""
        if runs(domain):
            return GuestState.RUNNING, ""
        try:
            self._check_usable(vm, domain, files)
        except BootFailed as unusable:
            return GuestState.OFF, str(unusable)
        if domain is not None and domain.state is GuestState.PAUSED:
            return (GuestState.OFF if "creating" in files else GuestState.PAUSED), ""
        if domain is None and "save" in files:
            return GuestState.SUSPENDED, ""
        return (GuestState.OFF if domain is None else domain.state), ""

    def _check_usable(self, vm: VM, domain: rules.Listed | None, files: set[str]) -> None:
        """Raise BootFailed if the saved state of a VM that does not run must not be used."""
        discard = _DISCARD.format(vm.name)
        if domain is not None and domain.is_saving:
            raise BootFailed(f"it is being saved, or that was cut short; {discard}")
        if "restoring" in files:
            path = self.saves.path(vm.uuid, "restoring")
            raise BootFailed(f"{path} is being restored, or that was cut short; it is not restored again: {discard}")
        if "used" in files and domain is None:
            path = self.saves.path(vm.uuid, "used")
            raise BootFailed(f"{path} was used already and is not restored again; {discard}")

    async def discover(self) -> Sequence[Discovered]:
        """Return the domains that run: xl knows no others, and keeps no labels."""
        return [Discovered(each.name, each.uuid, runs(each)) for each in await domains()]

    # --- starting ---

    async def start(self, vm: VM) -> None:
        """Let a domain run: continue it if it is paused, restore it from its save, or create it."""
        domain = await find(vm)
        if runs(domain):
            return
        files = self.saves.all().get(vm.uuid, set())
        self._check_usable(vm, domain, files)
        if domain is not None and (domain.state is not GuestState.PAUSED or "creating" in files):
            await destroy(domain, self._clock)  # it has ended, or was never let run
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
            self.saves.becomes(vm.uuid, "save", "used")
        await xl("unpause", str(domain.id))

    async def _restore(self, vm: VM) -> None:
        """Restore a domain from its save, paused, and let it run when that is complete."""
        self.saves.becomes(vm.uuid, "save", "restoring")
        restoring, used = self.saves.path(vm.uuid, "restoring"), self.saves.path(vm.uuid, "used")
        status, _, err = await commands.run("sh", "-c", _RESTORE, "restore", str(restoring), str(used), vm.name)
        if status == _NOT_RESTORED:
            domain = await find(vm)
            if domain is not None:
                await destroy(domain, self._clock)  # it has not run
            self.saves.becomes(vm.uuid, "restoring", "save")
        if status:
            raise Unavailable(f"xl restore: {rules.reason(err) or f'status {status}'}")

    async def _create(self, vm: VM) -> None:
        """Create a domain, write what it is to find in Xenstore, and let it run."""
        spec = domain_spec(vm, self._bridge)
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{vm.name}.cfg"
        path.write_text(self._config(spec))
        self.saves.begin_creating(vm.uuid)
        await xl("create", "-q", "-p", str(path))
        domain = await existing(vm)
        if config := _rumprun(spec):
            await self.xenstore.change({f"/local/domain/{domain.id}/rumprun/cfg": config})
        await xl("unpause", str(domain.id))
        self.saves.remove(vm.uuid, "creating")

    # --- stopping ---

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a domain."""
        await stop(vm, how, self, self._clock)

    async def pause(self, vm: VM) -> None:
        """Stop a domain's processors."""
        await xl("pause", str((await existing(vm)).id))

    async def is_off(self, vm: VM) -> bool:
        """Say whether a domain is gone."""
        return await find(vm) is None

    async def press(self, vm: VM) -> None:
        """Ask a guest to shut down."""
        if (domain := await find(vm)) is not None:
            await xl("shutdown", "-F", str(domain.id))

    async def destroy(self, vm: VM) -> None:
        """Stop a domain at once, unless it is paused: then its memory is saved state."""
        domain = await find(vm)
        if domain is None:
            return
        if domain.is_saving or domain.state is GuestState.PAUSED:
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        await destroy(domain, self._clock)

    async def suspend(self, vm: VM) -> None:
        """Save a domain to its file; it is destroyed only when the file is complete and on the disk."""
        domain = await existing(vm)
        if not runs(domain):
            raise Unavailable(f"{vm.name} does not run: it cannot be saved now")
        self._changes[vm.uuid] += 1
        self.saves.make_directory()
        self.saves.remove(vm.uuid, *SAVED)  # it has run since
        new = str(self.saves.path(vm.uuid, "new"))
        await xl("save", "-p", str(domain.id), new)
        status, _, err = await commands.run("sync", new)
        if status:
            raise Unavailable(f"{new} cannot be written to the disk: {rules.reason(err)}")
        self.saves.becomes(vm.uuid, "new", "save")
        await destroy(domain, self._clock)

    async def discard(self, vm: VM) -> None:
        """Destroy a paused domain, and remove the saves of one that does not run."""
        domain = await find(vm)
        if domain is not None and runs(domain):
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        if domain is not None:
            await destroy(domain, self._clock)
        self._changes[vm.uuid] += 1
        self.saves.remove(vm.uuid, *SUFFIXES)

    async def forget(self, vm: VM) -> None:
        """Remove a VM's configuration; what was saved of it stays."""
        (self._directory / f"{vm.name}.cfg").unlink(missing_ok=True)
        kept = [str(path) for each in SAVED if (path := self.saves.path(vm.uuid, each)).exists()]
        if kept:
            raise Unavailable(f"its saved state is kept in {', '.join(kept)}", hint="remove it if nobody needs it")
        domain = await find(vm)
        if domain is not None and domain.state is GuestState.PAUSED:
            raise Unavailable("its domain is kept, paused", hint=f"xl destroy {vm.name}")

    # --- Xenstore ---

    async def domain_id(self, vm: VM) -> int | None:
        """Return the domain's id while it is there."""
        domain = await find(vm)
        return None if domain is None else domain.id

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in Xenstore."""
        domain = await existing(vm)
        await self.xenstore.wait_for(f"/local/domain/{domain.id}/{vm.wait_for_key}")


def _rumprun(spec: DomainSpec) -> str:
    """Return what a Rumprun unikernel is to find in Xenstore, "" if it is none; raises Refused."""
    if not spec.rumprun_config:
        return ""
    try:
        return rules.rumprun(Path(spec.rumprun_config).read_text())
    except OSError as error:
        raise Refused(f"rumprun_config: {spec.rumprun_config} cannot be read: {error.strerror}") from None
