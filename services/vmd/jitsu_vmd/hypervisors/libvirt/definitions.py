"""The domains that are made for VMs: defined when the VM is configured, and again when it is configured otherwise.

A domain that runs is left as it is until it stops. A domain that cannot be defined is noted, and the VM's next start
fails with that reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed, Refused
from jitsu_vmd.hypervisors.libvirt import rules
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.xen_images import XenImages

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import GuestType


class Definitions:
    """What was defined through one URI."""

    def __init__(self, bridge: str) -> None:
        """`bridge` is that of VMs that name none."""
        self.domain_type: rules.DomainType = "qemu"
        self._bridge = bridge
        self._images = XenImages()
        self._defined: dict[str, str] = {}
        """uuid of a VM -> the XML that it was defined with."""
        self._faults: dict[str, str] = {}
        """uuid of a VM -> why its domain could not be defined."""

    def connected(self, domain_type: rules.DomainType) -> None:
        """Note what kind of domains the hypervisor runs, and that it may have forgotten what was defined."""
        self.domain_type = domain_type
        self._defined.clear()

    def xml(self, vm: VM, guest_type: GuestType | None = None) -> str:
        """Return the XML of a VM's domain as the VM is configured; raises Refused.

        If `guest_type` is given, the kernel's image need not be there: nobody looks into it.
        """
        spec = domain_spec(vm, self._bridge)
        if spec.domain_xml:
            try:
                template = Path(spec.domain_xml).read_text()
            except OSError as error:
                raise Refused(f"domain_xml: {spec.domain_xml} cannot be read: {error.strerror}") from None
            return rules.from_template(spec, template)
        if guest_type is None:
            guest_type = self._images.guest_type(spec) if self.domain_type == "xen" else "pv"
        return rules.domain_xml(spec, self.domain_type, guest_type)

    def keep(self, library: Any, connection: Any, vm: VM, domain: Any) -> Any:
        """Define the domain of a VM unless it runs or is defined already, so that a summon finds that done.

        `domain` is the one that there is, or None. Returns the one that there is now.
        """
        try:
            xml = self.xml(vm)
            if domain is not None and (domain.isActive() or self._defined.get(vm.uuid) == xml):
                return domain
            if domain is not None and domain.UUIDString() != vm.uuid:
                raise Refused(f"a domain {vm.name} is there already, with another uuid")
            domain = connection.defineXML(xml)
        except (Refused, library.libvirtError) as error:
            self._faults[vm.uuid] = str(error)
            return domain
        self._faults.pop(vm.uuid, None)
        self._defined[vm.uuid] = xml
        return domain

    def check_defined(self, vm: VM) -> None:
        """Raise BootFailed if the VM's domain could not be defined."""
        if fault := self._faults.get(vm.uuid):
            raise BootFailed(f"its domain cannot be defined: {fault}")

    def forget(self, vm: VM) -> None:
        """Forget a VM, whose domain is about to be undefined."""
        self._defined.pop(vm.uuid, None)
