"""The mock hypervisor `loopback`: guests without privileges, each on its own 127.x.y.z address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.mock.client import MockHypervisor
from jitsu_vmd.hypervisors.mock.rules import check_keys_on_loopback

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World


def make(world: World, connection: HypervisorConnection) -> Loopback:
    """Return the mock hypervisor, whose host process others may run."""
    return Loopback(world, connection.uri)


class Loopback(MockHypervisor):
    """Guests on loopback."""

    name = "mock (loopback)"

    async def _prepare(self) -> None:
        """Guests on loopback need nothing."""

    def check(self, vm: VM) -> None:
        """Refuse nothing."""

    def _check_keys(self, vm: VM) -> None:
        check_keys_on_loopback(vm)
