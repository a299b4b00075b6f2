"""The states of all VMs, as the vmd of each host last published them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.vm import VM

UNDER_WAY = frozenset({VmState.STARTING, VmState.BOOTING, VmState.READY, VmState.DRAINING})


def has_addresses(vm: VM, addresses: Collection[str]) -> bool:
    """Return whether a guest was started with the addresses that its VM is configured to have, as far as is known."""
    return not addresses or {str(address) for address in vm.addresses} == set(addresses)


class States:
    """VM -> its status. Drains have an index: each report asks for them, and must not look through 10,000 VMs."""

    def __init__(self) -> None:
        self.is_heard: Callable[[str], bool] = lambda _: True
        """Returns whether the vmd of a host is heard now."""
        self._by_vm: dict[str, VmStatus] = {}
        self._drains: dict[str, str] = {}
        """VM -> its drain."""

    def of(self, vm: str) -> VmState:
        """Return the state of a VM; UNKNOWN if no vmd has published one."""
        known = self._by_vm.get(vm)
        return VmState.UNKNOWN if known is None else known.state

    def serves(self, vm: VM) -> bool:
        """Return whether a VM is ready, and its guest has the addresses that are configured."""
        known = self._by_vm.get(vm.uuid)
        return known is not None and known.state is VmState.READY and has_addresses(vm, known.addresses)

    def is_under_way(self, vm: str, host: str) -> bool:
        """Return whether a VM is about to be ready. What a vmd published before it fell silent may be out of date."""
        return self.of(vm) in UNDER_WAY and self.is_heard(host)

    def on_host(self, host: str) -> list[str]:
        """Return the VMs of which the vmd of a host has published a state."""
        return [vm for vm, status in self._by_vm.items() if status.host == host]

    def drains(self) -> list[str]:
        """Return the drains that are under way."""
        return list(self._drains.values())

    def put(self, status: VmStatus) -> None:
        """Note a VM's new state."""
        self._by_vm[status.uuid] = status
        if status.drain:
            self._drains[status.uuid] = status.drain
        else:
            self._drains.pop(status.uuid, None)

    def moved_away(self, status: VmStatus) -> bool:
        """Return whether another host has published a state of this VM since."""
        known = self._by_vm.get(status.uuid)
        return known is not None and known.host != status.host

    def forget(self, vm: str) -> None:
        """Forget a VM."""
        self._by_vm.pop(vm, None)
        self._drains.pop(vm, None)
