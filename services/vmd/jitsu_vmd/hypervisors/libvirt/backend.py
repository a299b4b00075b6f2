"""libvirt (libvirt-python): domains of any URI, those that exist already and those that are made for VMs.

libvirt's calls block, so each runs on a thread of its own pool: one that hangs delays no other VM. Its events arrive on
another thread, which all connections share (connections.py). A connection that is lost is opened again, once a second.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from jitsu_protocol.model.errors import JitsuError, NotFound, Refused, Unavailable
from jitsu_runtime.xenstore import Xenstore
from jitsu_vmd.hypervisor import OTHERS, Examined
from jitsu_vmd.hypervisors.libvirt import rules
from jitsu_vmd.hypervisors.libvirt.connections import LOOK_LIMIT_S, Connections
from jitsu_vmd.hypervisors.libvirt.definitions import Definitions
from jitsu_vmd.hypervisors.libvirt.discovery import discover
from jitsu_vmd.hypervisors.libvirt.domains import Domains, is_paused
from jitsu_vmd.hypervisors.shared.kvm import kvm_works
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec, is_made
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.hypervisors.shared.this_host import check_boot_files, check_parts
from jitsu_vmd.hypervisors.shared.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Discovered, Guest

DEFAULT_URI = "qemu:///system"
RETRY_S = 1.0

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Libvirt:
    """Return libvirt at a URI."""
    uri = connection.uri or DEFAULT_URI
    return (LibvirtOfDom0 if is_this_dom0(uri) else Libvirt)(world, uri)


class Libvirt:
    """The domains of one URI."""

    def __init__(self, world: World, uri: str) -> None:
        self._world = world
        self._uri = uri
        self.name = f"libvirt ({uri})"
        self._threads = Threads(uri, self._translating)
        self._connections = Connections(uri, self._threads, self._happened)
        self._definitions = Definitions(world.settings.hypervisor.bridge)
        self._domains = Domains(uri, self._connections, self._definitions)
        self._changed: Callable[[str], None] = lambda _: None
        self._loop = asyncio.get_event_loop()

    @property
    def _is_here(self) -> bool:
        """Whether files and bridges are those of this host."""
        return not urlsplit(self._uri).netloc

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if libvirt cannot do what a VM's keys ask for."""
        if vm.wait_for_key and not is_this_dom0(self._uri):
            raise Refused("wait_for_key: this hypervisor has no Xenstore" + (" here" if is_xen(self._uri) else ""))
        if is_made(vm):
            self._definitions.xml(vm, guest_type="pv")  # what is wrong with the keys comes first
            if self._is_here:
                check_boot_files(domain_spec(vm, ""))
            self._definitions.xml(vm)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for domains, files and bridges that are not there, and for keys that have no effect."""
        otherwise = f"{self._uri} does not answer"
        return await self._threads.within(LOOK_LIMIT_S, otherwise, lambda: {vm.uuid: self._examine(vm) for vm in vms})

    def _examine(self, vm: VM) -> Examined:
        writes_to_disk = "disk" in vm.config
        try:
            if is_made(vm):
                xml = self._definitions.xml(vm)
            else:
                xml = self._domains.find(vm).XMLDesc(self._connections.library.VIR_DOMAIN_XML_INACTIVE)
            writes_to_disk = rules.writes_to_disk(xml)
            rules.check_keys(vm, is_xen=self._definitions.domain_type == "xen")
            if is_made(vm) and self._is_here:
                check_parts(vm)
        except (NotFound, Refused) as error:
            return Examined(str(error), writes_to_disk)
        return Examined(writes_to_disk=writes_to_disk)

    async def discover(self) -> Sequence[Discovered]:
        """Return all domains, with what their metadata, leases and agents say."""
        return await discover(self._uri, self._connections, self._threads)

    # --- the connection ---

    async def open(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._connections.load()
        self._connections.lose()  # that of an earlier opening, with its events
        await self._connect()

    async def _connect(self) -> None:
        kind: rules.DomainType = "test"
        match await self._connections.connect():
            case "QEMU":
                wants = self._world.settings.hypervisor.accelerate
                kind = "kvm" if wants == "kvm" or (wants == "auto" and await kvm_works()) else "qemu"
            case "Xen":
                kind = "xen"
        self._definitions.connected(kind)
        log.info("connected", hypervisor=self.name, domains=kind)

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report what happens to domains, and connect again when the connection is lost."""
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
        """Pass on an event, which has arrived on libvirt's thread."""
        uuid = domain.UUIDString()
        self._domains.changed(uuid)
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._report, uuid)

    def _report(self, domain: str) -> None:
        self._changed(self._domains.vms.get(domain, OTHERS))

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except self._connections.library.libvirtError as error:
            raise Unavailable(error.get_error_message() or str(error)) from None

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at the domains of these VMs."""
        return await self._threads.look(LOOK_LIMIT_S, lambda: self._domains.guests(list(vms)))

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a domain run: continue it if it is paused, restore it from its managed save, or boot it."""
        self._definitions.check_defined(vm)
        await self._on_domain(vm, self._run)

    def _run(self, domain: Any) -> None:
        """Let a domain run. Its managed save is gone before it does, so that it can never be restored a second time.

        libvirt removes the file when it has restored the guest, which is paused until then.
        """
        library = self._connections.library
        state = domain.state()[0]
        if state == library.VIR_DOMAIN_PMSUSPENDED:
            domain.pMWakeup()
        elif state == library.VIR_DOMAIN_PAUSED:
            _continue(domain)
        elif not domain.isActive():
            # libvirt's test driver has no such flag.
            if domain.hasManagedSaveImage(0) and self._definitions.domain_type != "test":
                domain.createWithFlags(library.VIR_DOMAIN_START_PAUSED)
                _continue(domain)
            else:
                domain.create()

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a domain; suspend is `virsh managedsave`, pause is `virsh suspend`."""
        await stop(vm, how, self, self._world.clock)

    async def suspend(self, vm: VM) -> None:
        """Save a domain's memory to disk."""
        await self._on_domain(vm, lambda domain: domain.managedSave(0))

    async def pause(self, vm: VM) -> None:
        """Stop a domain's processors."""
        await self._on_domain(vm, lambda domain: domain.suspend())

    async def is_off(self, vm: VM) -> bool:
        """Say whether a domain has shut down."""
        return not await self._on_domain(vm, lambda domain: domain.isActive())

    async def press(self, vm: VM) -> None:
        """Ask a guest to shut down, by ACPI or Xen's own way."""
        await self._on_domain(vm, lambda domain: domain.isActive() and domain.shutdown())

    async def destroy(self, vm: VM) -> None:
        """Stop a domain at once, unless it is paused: then its memory is saved state."""

        def destroyed(domain: Any) -> None:
            if is_paused(self._connections.library, domain):
                raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
            if domain.isActive():
                domain.destroy()

        with suppress(NotFound):
            await self._on_domain(vm, destroyed)

    async def discard(self, vm: VM) -> None:
        """Destroy a paused domain, or remove its managed save."""

        def discarded(domain: Any) -> None:
            if is_paused(self._connections.library, domain):
                domain.destroy()
            elif domain.isActive():
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            if domain.hasManagedSaveImage(0):
                domain.managedSaveRemove(0)

        await self._on_domain(vm, discarded)

    async def forget(self, vm: VM) -> None:
        """Undefine the domain that was made for a VM, unless that would lose its saved state."""
        self._definitions.forget(vm)

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

        if is_made(vm):
            with suppress(NotFound):
                await self._on_domain(vm, undefined)

    async def domain_id(self, vm: VM) -> int | None:
        """Return the domain's id on Xen while it runs."""
        if self._definitions.domain_type != "xen":
            return None
        found: int = await self._on_domain(vm, lambda domain: domain.ID())
        return found if found > 0 else None

    async def _on_domain(self, vm: VM, work: Callable[[Any], Any]) -> Any:
        """Run work with a VM's domain on a thread; vmd limits how long that may take."""
        return await self._threads.run(lambda: work(self._domains.find(vm)))


def _continue(domain: Any) -> None:
    if domain.hasManagedSaveImage(0):
        domain.managedSaveRemove(0)  # it is older than what the domain does now: libvirtd died before it removed it
    domain.resume()


class LibvirtOfDom0(Libvirt):
    """The domains of this dom0, in whose Xenstore keys can be waited for."""

    def __init__(self, world: World, uri: str) -> None:
        super().__init__(world, uri)
        self._xenstore = Xenstore(world.settings.hypervisor.xenstore, world.spawn)

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
