"""libvirt (libvirt-python): domains of any URI, those that there are and those that are made for VMs.

libvirt's calls block, so each runs on a thread of its own pool: one that hangs delays no other VM. Its events come on
another thread, which all connections share (wires/libvirtd.py). A connection that is lost is made again each second.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.xenstore import Xenstore as XenstoreClient
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.rules import domain as rules
from jitsu_vmd.rules import means
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.rules.image import ImageFault
from jitsu_vmd.wires.images import Images
from jitsu_vmd.wires.kvm import kvm_works
from jitsu_vmd.wires.libvirtd import LOOK_LIMIT_S, Connections
from jitsu_vmd.wires.parts import absent_part, is_absent
from jitsu_vmd.wires.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World

DEFAULT_URI = "qemu:///system"
RETRY_S = 1.0
ASK_AGAIN_S = 5.0
"""A guest that still boots does not hear that it shall shut down."""
WATCH_S = 0.5
FEW = 16
"""So many domains are looked up one by one; beyond that a list of all costs less."""

log = structlog.get_logger("vmd")


def make(world: World, connection: Connection) -> Libvirt:
    """Return libvirt at a URI."""
    uri = connection.uri or DEFAULT_URI
    return (LibvirtOfDom0 if is_this_dom0(uri) else Libvirt)(world, uri)


class Libvirt:
    """The domains of one URI."""

    def __init__(self, process: World, uri: str) -> None:
        self._settings = process.settings.hypervisor
        self._uri = uri
        self.name = f"libvirt ({self._uri})"
        self._is_here = not urlsplit(self._uri).netloc
        """Files and bridges are those of this host."""
        self._watches_keys = is_this_dom0(self._uri)
        self._images = Images()
        self._threads = Threads(self._uri, self._translated)
        self._connections = Connections(self._uri, self._threads, self._happened)
        self._kind: rules.DomainType = "qemu"
        self._vms: dict[str, str] = {}
        """Domain's uuid -> the VM's."""
        self._nics: dict[str, tuple[int, tuple[Nic, ...]]] = {}
        """By domain's uuid: its id when they were looked at, as each start gives its interfaces other names."""
        self._defined: dict[str, str] = {}
        """VM -> the XML that it was defined with."""
        self._faults: dict[str, str] = {}
        """VM -> why its domain could not be defined."""
        self._changed: Callable[[str], None] = lambda _: None
        self._loop = asyncio.get_event_loop()

    def check(self, vm: VM) -> None:
        """Raise Refused if libvirt cannot do what a VM's keys ask for."""
        if vm.wait_for_key and not self._watches_keys:
            raise Refused("wait_for_key: this hypervisor has no Xenstore" + (" here" if is_xen(self._uri) else ""))
        if not rules.is_made(vm):
            return
        absent = [key for key in ("kernel", "initrd") if self._is_here and vm.key(key) and is_absent(vm.key(key))]
        missing = f"{absent[0]}: there is no file {vm.key(absent[0])}" if absent else ""
        try:
            self._xml(vm)
        except rules.DomainFault as fault:
            raise Refused(str(fault)) from None
        except ImageFault as fault:
            raise Refused(missing or str(fault)) from None
        if missing:
            raise Refused(missing)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for domains, files and bridges that are not there, and for keys that count for nothing."""
        otherwise = f"{self._uri} does not answer"
        return await self._threads.within(
            LOOK_LIMIT_S, otherwise, lambda: {vm.uuid: self._examine(self._connections.mine(), vm) for vm in vms}
        )

    def _examine(self, connection: Any, vm: VM) -> Examined:
        mistake = means.of_libvirt(vm, is_xen=self._kind == "xen")
        try:
            if not rules.is_made(vm):
                xml = self._domain(connection, vm).XMLDesc(self._library.VIR_DOMAIN_XML_INACTIVE)
            else:
                xml = self._xml(vm)
                mistake = mistake or (absent_part(vm) if self._is_here else "")
        except (NotFound, rules.DomainFault, ImageFault) as error:
            return Examined(str(error), writes_to_disk="disk" in vm.config)
        return Examined(mistake, means.writes_to_disk(xml))

    # --- the connection ---

    @property
    def _library(self) -> Any:
        return self._connections.library

    async def open(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._connections.load()
        await self._connect()

    async def _connect(self) -> None:
        driver = await self._connections.connect()
        if driver == "QEMU":
            wants = self._settings.accelerate
            self._kind = "kvm" if wants == "kvm" or (wants == "auto" and await kvm_works()) else "qemu"
        else:
            self._kind = "xen" if driver == "Xen" else "test"
        self._defined.clear()
        log.info("connected", hypervisor=self.name, domains=self._kind)

    async def run(self, changed: Callable[[str], None]) -> None:
        """Tell what happens to domains, and connect again when the connection is lost."""
        self._changed = changed
        while True:
            await asyncio.sleep(RETRY_S)
            if await self._connections.is_alive():
                continue
            self._connections.lose()
            try:
                await self._connect()
            except JitsuError as error:
                log.debug("libvirt is away", reason=str(error))
            else:
                changed("")

    def _happened(self, domain: Any, _: int) -> None:
        """Take an event, on libvirt's thread."""
        uuid = domain.UUIDString()
        self._nics.pop(uuid, None)
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._tell, uuid)

    def _tell(self, domain: str) -> None:
        if domain in self._vms:
            self._changed(self._vms[domain])

    # --- looking ---

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at the domains of these VMs."""
        return await self._threads.look(LOOK_LIMIT_S, lambda: self._look(self._connections.mine(), list(vms)))

    def _look(self, connection: Any, vms: list[VM]) -> dict[str, Guest]:
        domains = self._domains(connection, vms)
        found = {}
        for vm in vms:
            domain, is_saved = domains.get(vm.uuid, (None, False))
            if rules.is_made(vm):
                domain = self._keep_defined(connection, vm, domain)
            if domain is not None:
                with suppress(self._library.libvirtError):  # it was removed in the meantime
                    found[vm.uuid] = self._guest(vm, domain, is_saved)
        return found

    def _domains(self, connection: Any, vms: list[VM]) -> dict[str, tuple[Any, bool]]:
        """Return the domains of these VMs, and whether each has a managed save, which is asked before its state."""
        if len(vms) <= FEW:
            few = {}
            for vm in vms:
                with suppress(NotFound):
                    domain = self._domain(connection, vm)
                    few[vm.uuid] = (domain, bool(domain.hasManagedSaveImage(0)))
            return few
        saved = {
            each.UUIDString() for each in connection.listAllDomains(self._library.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        }
        domains = connection.listAllDomains(0)
        by_uuid = {each.UUIDString(): each for each in domains}
        by_name = {each.name(): each for each in domains}
        found = {}
        for vm in vms:
            domain = by_uuid.get(vm.uuid) or (None if "uuid" in vm.config else by_name.get(vm.name))
            if domain is not None:
                found[vm.uuid] = (domain, domain.UUIDString() in saved)
        return found

    def _keep_defined(self, connection: Any, vm: VM, domain: Any) -> Any:
        """Define the domain of a VM as it is configured, unless it runs: a summon shall find that done."""
        try:
            xml = self._xml(vm)
            if domain is not None and (domain.isActive() or self._defined.get(vm.uuid) == xml):
                return domain
            if domain is not None and domain.UUIDString() != vm.uuid:
                raise rules.DomainFault(f"a domain {vm.name} is there already, with another uuid")
            domain = connection.defineXML(xml)
        except (rules.DomainFault, ImageFault, self._library.libvirtError) as error:
            self._faults[vm.uuid] = str(error)
            return domain
        self._faults.pop(vm.uuid, None)
        self._defined[vm.uuid] = xml
        return domain

    def _xml(self, vm: VM) -> str:
        template = ""
        if path := vm.key("domain_xml"):
            try:
                template = Path(path).read_text()
            except OSError as error:
                raise rules.DomainFault(f"domain_xml: {path} cannot be read: {error.strerror}") from None
        guest_type = self._images.guest_type(vm) if self._kind == "xen" and not template else "pv"
        return rules.domain_xml(vm, self._kind, self._settings.bridge, template, guest_type)

    def _guest(self, vm: VM, domain: Any, is_saved: bool) -> Guest:
        uuid = domain.UUIDString()
        self._vms[uuid] = vm.uuid
        known_as, nics = self._nics.get(uuid, (None, ()))  # an event may remove them at any moment
        if known_as != (number := domain.ID()):
            nics = tuple(Nic(*each) for each in rules.nics(domain.XMLDesc(0)))
            self._nics[uuid] = (number, nics)
        code, reason = domain.state()
        state = self._state(code, is_saved)
        if is_saved and state is GuestState.RUNNING:
            domain.managedSaveRemove(0)  # it has run since
        return Guest(state, reason=self._reason(code, reason), nics=nics)

    def _state(self, state: int, is_saved: bool) -> GuestState:
        library = self._library
        match state:
            case library.VIR_DOMAIN_PAUSED | library.VIR_DOMAIN_PMSUSPENDED:
                return GuestState.PAUSED
            case library.VIR_DOMAIN_SHUTOFF:
                return GuestState.SUSPENDED if is_saved else GuestState.OFF
            case library.VIR_DOMAIN_CRASHED:
                return GuestState.CRASHED
            case _:
                return GuestState.RUNNING

    def _reason(self, state: int, reason: int) -> str:
        library = self._library
        if state == library.VIR_DOMAIN_CRASHED or (state, reason) == (
            library.VIR_DOMAIN_SHUTOFF,
            library.VIR_DOMAIN_SHUTOFF_CRASHED,
        ):
            return "the guest crashed"
        return ""

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a domain run: continue it if it is paused, restore it from its managed save, or boot it."""
        if fault := self._faults.get(vm.uuid):
            raise BootFailed(f"its domain cannot be defined: {fault}")
        await self._on_domain(vm, self._run)

    def _run(self, domain: Any) -> None:
        """Let a domain run. Its managed save is gone before it does, so that it can never be restored a second time.

        libvirt removes the file when it has restored the guest, which is paused until then.
        """
        library = self._library
        state = domain.state()[0]
        if state == library.VIR_DOMAIN_PMSUSPENDED:
            domain.pMWakeup()
        elif state == library.VIR_DOMAIN_PAUSED:
            self._continue(domain)
        elif not domain.isActive():
            if domain.hasManagedSaveImage(0) and self._kind != "test":  # libvirt's test driver has no such flag
                domain.createWithFlags(library.VIR_DOMAIN_START_PAUSED)
                self._continue(domain)
            else:
                domain.create()

    @staticmethod
    def _continue(domain: Any) -> None:
        if domain.hasManagedSaveImage(0):
            domain.managedSaveRemove(0)  # it is of before: libvirtd died before it had removed it
        domain.resume()

    async def discard(self, vm: VM) -> None:
        """Destroy a paused domain, or remove its managed save."""

        def discarded(domain: Any) -> None:
            if self._is_paused(domain):
                domain.destroy()
            elif domain.isActive():
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            if domain.hasManagedSaveImage(0):
                domain.managedSaveRemove(0)

        await self._on_domain(vm, discarded)

    def _is_paused(self, domain: Any) -> bool:
        return domain.state()[0] in (self._library.VIR_DOMAIN_PAUSED, self._library.VIR_DOMAIN_PMSUSPENDED)

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
        ends = monotonic() + float(vm.key("shutdown_limit"))
        asked_at = 0.0
        while await self._on_domain(vm, lambda domain: domain.isActive()):
            if monotonic() >= ends:
                log.warning("the guest did not shut down in time and was destroyed", vm=vm.name)
                await self._destroy(vm)
                return
            if monotonic() >= asked_at + ASK_AGAIN_S:
                asked_at = monotonic()
                try:
                    await self._on_domain(vm, lambda domain: domain.isActive() and domain.shutdown())
                except Unavailable as error:  # a guest that still boots, or was let go on just now, may not hear it
                    log.info("cannot be asked to shut down yet", vm=vm.name, reason=str(error))
            await asyncio.sleep(WATCH_S)

    async def _destroy(self, vm: VM) -> None:
        """Stop a domain at once, unless it is paused: then its memory is saved state."""

        def destroyed(domain: Any) -> None:
            if self._is_paused(domain):
                raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
            if domain.isActive():
                domain.destroy()

        with suppress(NotFound):
            await self._on_domain(vm, destroyed)

    async def _suspend(self, vm: VM) -> None:
        """Save a domain (virsh managedsave)."""
        await self._on_domain(vm, lambda domain: domain.managedSave(0))

    async def _pause(self, vm: VM) -> None:
        """Pause a domain (virsh suspend)."""
        await self._on_domain(vm, lambda domain: domain.suspend())

    async def forget(self, vm: VM) -> None:
        """Undefine the domain that was made for a VM, unless that would lose its saved state."""
        self._defined.pop(vm.uuid, None)

        def undefined(domain: Any) -> None:
            if domain.hasManagedSaveImage(0):
                raise Unavailable(
                    "its domain and its managed save are kept", hint=f"virsh undefine --managed-save {vm.name}"
                )
            if domain.isActive():
                raise Unavailable(
                    "its domain is kept, as it is not off", hint=f"virsh destroy {vm.name}; virsh undefine {vm.name}"
                )
            domain.undefine()

        if rules.is_made(vm):
            with suppress(NotFound):
                await self._on_domain(vm, undefined)

    async def domain_id(self, vm: VM) -> int | None:
        """Return the domain's id on Xen."""
        if self._kind != "xen":
            return None
        found: int = await self._on_domain(vm, lambda domain: domain.ID())
        return found if found > 0 else None

    # --- threads ---

    async def _on_domain(self, vm: VM, work: Callable[[Any], Any]) -> Any:
        """Do something with a VM's domain; vmd limits how long that may take."""
        return await self._threads.run(lambda: work(self._domain(self._connections.mine(), vm)))

    def _domain(self, connection: Any, vm: VM) -> Any:
        try:
            if rules.is_made(vm) or "uuid" in vm.config:
                return connection.lookupByUUIDString(vm.uuid)
            return connection.lookupByName(vm.name)
        except self._library.libvirtError as error:
            if error.get_error_code() == self._library.VIR_ERR_NO_DOMAIN:
                raise NotFound(
                    f"{self._uri} has no domain {vm.name}",
                    hint="virsh define it, or describe it with kernel or domain_xml",
                ) from None
            raise

    def _translated(self, error: Exception) -> Exception | None:
        if self._library is not None and isinstance(error, self._library.libvirtError):
            return Unavailable(error.get_error_message() or str(error))
        return None


class LibvirtOfDom0(Libvirt):
    """The domains of this dom0, in whose Xenstore keys can be waited for."""

    def __init__(self, process: World, uri: str) -> None:
        super().__init__(process, uri)
        self._xenstore = XenstoreClient(self._settings.xenstore, process.spawn)

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in this dom0's Xenstore."""
        domain = await self.domain_id(vm)
        if domain is None:
            raise NotFound(f"{vm.name} has no domain in Xenstore")
        await self._xenstore.wait_for(f"/local/domain/{domain}/{vm.wait_for_key}")


def is_xen(uri: str) -> bool:
    """Say whether a URI is of libvirt's driver for Xen."""
    return urlsplit(uri).scheme.partition("+")[0] == "xen"


def is_this_dom0(uri: str) -> bool:
    """Say whether a URI is of the Xen on this host."""
    return is_xen(uri) and not urlsplit(uri).netloc
