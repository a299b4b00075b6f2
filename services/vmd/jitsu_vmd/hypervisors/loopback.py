"""The mock hypervisor `loopback`: guests without privileges, each on its own 127.x.y.z address."""

from __future__ import annotations

from jitsu_vmd.mock.client import MockHypervisor


class Loopback(MockHypervisor):
    """Guests on loopback."""

    name = "mock (loopback)"
