"""VMs for tests of the rules."""

from __future__ import annotations

from jitsu_protocol.model.vm import VM, from_config


def make_vm(name: str = "www", address: str = "127.0.1.1", **keys: str) -> VM:
    """Return a VM with one name, NAME.jitsu.test."""
    config = {"name": name, "dns": f"{name}.jitsu.test", "ip": address} | keys
    return from_config({key: [value] for key, value in config.items()}, {})
