"""The hypervisors: a folder for each kind, loaded only when a connection of that kind is configured. See README.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Hypervisor


def make(world: World, connection: HypervisorConnection) -> Hypervisor:
    """Return the hypervisor of a connection; nothing is connected yet."""
    made: Hypervisor = import_module(f"{__name__}.{connection.kind.folder}.backend").make(world, connection)
    return made
