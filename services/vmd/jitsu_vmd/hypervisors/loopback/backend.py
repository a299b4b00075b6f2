"""The mock hypervisor `loopback`: guests without privileges, each on its own 127.x.y.z address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.mock.client import MockHypervisor

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_runtime.world import World


def make(world: World, connection: Connection) -> Loopback:
    """Return the mock hypervisor, whose host process others may run."""
    return Loopback(world, connection.uri)


class Loopback(MockHypervisor):
    """Guests on loopback."""

    name = "mock (loopback)"
