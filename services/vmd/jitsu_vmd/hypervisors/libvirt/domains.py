"""Looking at the domains of VMs: which domain belongs to which VM, its state, its saved state, its interfaces.

All of it runs on a thread of the connections, with that thread's own connection.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import NotFound
from jitsu_vmd.hypervisor import Guest, Nic, Unseen
from jitsu_vmd.hypervisors.libvirt import rules
from jitsu_vmd.hypervisors.shared.rules.spec import is_made
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.libvirt.connections import Connections
    from jitsu_vmd.hypervisors.libvirt.definitions import Definitions

FEW = 16
"""Up to this many domains are looked up one by one; beyond that a list of all costs less."""


class Domains:
    """The domains of one URI, and what was seen of them."""

    def __init__(self, uri: str, connections: Connections, definitions: Definitions) -> None:
        self.vms: dict[str, str] = {}
        """uuid of a domain -> uuid of the VM."""
        self._uri = uri
        self._connections = connections
        self._definitions = definitions
        self._nics: dict[str, tuple[int, tuple[Nic, ...]]] = {}
        """By the domain's uuid, with its id when they were read: each start gives its interfaces other names."""

    def changed(self, domain: str) -> None:
        """Note that something has happened to the domain with this uuid; called on libvirt's thread."""
        self._nics.pop(domain, None)

    def find(self, vm: VM) -> Any:
        """Return a VM's domain; raises NotFound if there is none."""
        library, connection = self._connections.library, self._connections.mine()
        try:
            if is_made(vm) or "uuid" in vm.config:
                return connection.lookupByUUIDString(vm.uuid)
            return connection.lookupByName(vm.name)
        except library.libvirtError as error:
            if error.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                raise NotFound(
                    f"{self._uri} has no domain {vm.name}",
                    hint="virsh define it, or describe it with kernel or domain_xml",
                ) from None
            raise

    def guests(self, vms: list[VM]) -> dict[str, Guest]:
        """Return the guests of these VMs by uuid, and define the domains that are not defined as configured."""
        library, connection = self._connections.library, self._connections.mine()
        domains = self._few(vms) if len(vms) <= FEW else self._many(vms)
        found = {}
        for vm in vms:
            domain, is_saved = domains.get(vm.uuid, (None, False))
            if is_made(vm):
                domain = self._definitions.keep(library, connection, vm, domain)
            if domain is not None:
                with suppress(NotFound), self._looking_at(vm):
                    found[vm.uuid] = self._guest(vm, domain, is_saved)
        return found

    @contextmanager
    def _looking_at(self, vm: VM) -> Iterator[None]:
        """Raise NotFound if a domain was removed in the meantime, Unseen if only this one cannot be looked at."""
        library, connection = self._connections.library, self._connections.mine()
        try:
            yield
        except library.libvirtError as error:
            if error.get_error_code() == library.VIR_ERR_NO_DOMAIN:
                raise NotFound(f"{self._uri} has no domain {vm.name} any longer") from None
            if not connection.isAlive():
                raise
            raise Unseen(f"{vm.name}: {error.get_error_message()}") from None

    def _few(self, vms: list[VM]) -> dict[str, tuple[Any, bool]]:
        """Return the domains of these VMs, and whether each has a managed save, which is asked before its state."""
        found = {}
        for vm in vms:
            with suppress(NotFound), self._looking_at(vm):
                domain = self.find(vm)
                found[vm.uuid] = (domain, bool(domain.hasManagedSaveImage(0)))
        return found

    def _many(self, vms: list[VM]) -> dict[str, tuple[Any, bool]]:
        """Return the same from two lists of all domains."""
        library, connection = self._connections.library, self._connections.mine()
        saved = {each.UUIDString() for each in connection.listAllDomains(library.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)}
        domains = connection.listAllDomains(0)
        by_uuid = {each.UUIDString(): each for each in domains}
        by_name = {each.name(): each for each in domains}
        found = {}
        for vm in vms:
            domain = by_uuid.get(vm.uuid) or (None if "uuid" in vm.config else by_name.get(vm.name))
            if domain is not None:
                found[vm.uuid] = (domain, domain.UUIDString() in saved)
        return found

    def _guest(self, vm: VM, domain: Any, is_saved: bool) -> Guest:
        library = self._connections.library
        uuid = domain.UUIDString()
        self.vms[uuid] = vm.uuid
        known_as, nics = self._nics.get(uuid, (None, ()))  # an event may remove them at any moment
        if known_as != (number := domain.ID()):
            nics = tuple(Nic(*each) for each in rules.nics(domain.XMLDesc(0)))
            self._nics[uuid] = (number, nics)
        code, reason = domain.state()
        state = _state(library, code, is_saved)
        if is_saved and state is GuestState.RUNNING:
            domain.managedSaveRemove(0)  # it has run since
        return Guest(state, reason=_reason(library, code, reason), nics=nics)


def is_paused(library: Any, domain: Any) -> bool:
    """Say whether a domain's processors are stopped while its memory is kept."""
    return domain.state()[0] in (library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PMSUSPENDED)


def _state(library: Any, code: int, is_saved: bool) -> GuestState:
    match code:
        case library.VIR_DOMAIN_PAUSED | library.VIR_DOMAIN_PMSUSPENDED:
            return GuestState.PAUSED
        case library.VIR_DOMAIN_SHUTOFF:
            return GuestState.SUSPENDED if is_saved else GuestState.OFF
        case library.VIR_DOMAIN_CRASHED:
            return GuestState.CRASHED
        case _:
            return GuestState.RUNNING


def _reason(library: Any, code: int, reason: int) -> str:
    has_crashed = (code, reason) == (library.VIR_DOMAIN_SHUTOFF, library.VIR_DOMAIN_SHUTOFF_CRASHED)
    return "the guest crashed" if has_crashed or code == library.VIR_DOMAIN_CRASHED else ""
