"""Checks of the bus's endpoints: that no readable messages leave this machine by accident."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jitsu_runtime.settings.schema import BusSettings, HypervisorSettings
from jitsu_runtime.settings.values import MAX_IPC_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_runtime.settings.section import Section


def host_faults(sections: Mapping[str, Section | None]) -> list[str]:
    """Return what is wrong with the endpoints of the bus, and with the host that vmd says it is."""
    bus, hypervisor = sections["bus"], sections["hypervisor"]
    if not isinstance(bus, BusSettings):
        return []
    faults = _plain_tcp(bus)
    if isinstance(hypervisor, HypervisorSettings) and hypervisor.host not in bus.vmds:
        faults.append(f"hypervisor.host: {hypervisor.host!r} is not listed in bus.hosts")
    return faults


def _plain_tcp(bus: BusSettings) -> list[str]:
    faults = []
    for key, endpoint in bus.endpoints():
        if len(os.fsencode(endpoint.path)) > MAX_IPC_PATH_BYTES:  # a default one: the others are read already
            too_long = f"{endpoint.path!r} is too long for a Unix socket ({MAX_IPC_PATH_BYTES} bytes at most)"
            faults.append(f"bus.{'hosts' if key == 'hosts' else 'runtime_dir'}: {too_long}")
        elif not (bus.keys or bus.allow_plain_tcp or endpoint.is_loopback):
            faults.append(
                f"bus.{key}: {endpoint} is not loopback, and its messages can be read "
                "and forged on the way: `jitsu keys init DIRECTORY`, and name that in bus.keys "
                "(or set bus.allow_plain_tcp = true if plain tcp is what you want)"
            )
    return faults
