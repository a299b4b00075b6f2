"""Which kind of hypervisor runs a VM."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorKind
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings


def kind_of(vm: VM, settings: Settings) -> HypervisorKind:
    """Return the kind of a VM's hypervisor: of the connection that it names, else hypervisor.kind."""
    name = vm.config.get("hypervisor", ("",))[0]
    kinds = {each.name: each.kind for each in settings.hypervisor.all_connections}
    return kinds.get(name, settings.hypervisor.kind)
