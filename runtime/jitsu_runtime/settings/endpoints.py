"""Checks of the bus's endpoints: their form, and that no readable messages leave this machine by accident."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from jitsu_runtime.settings.schema import BusSettings, HypervisorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_runtime.settings.section import Section

MAX_IPC_PATH_BYTES = 100  # sun_path holds 108 (unix(7)); a lock file beside it ends in .lock


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
        scheme, _, rest = endpoint.partition("://")
        if scheme not in ("ipc", "tcp") or not rest:
            faults.append(f"bus.{key}: {endpoint!r} is neither ipc:// nor tcp://")
        elif scheme == "ipc" and len(os.fsencode(rest)) > MAX_IPC_PATH_BYTES:
            where = "runtime_dir" if key != "hosts" and not bus.configured_endpoints[key] else key
            faults.append(f"bus.{where}: {rest!r} is too long for a Unix socket ({MAX_IPC_PATH_BYTES} bytes at most)")
        elif scheme == "tcp" and not _is_host_and_port(rest):
            faults.append(f"bus.{key}: {endpoint!r} is not tcp://HOST:PORT, with a PORT from 1 to 65535")
        elif scheme == "tcp" and not (bus.keys or bus.allow_plain_tcp or _is_loopback(rest)):
            faults.append(
                f"bus.{key}: {endpoint} is not loopback, and its messages can be read "
                "and forged on the way: `jitsu keys init DIRECTORY`, and name that in bus.keys "
                "(or set bus.allow_plain_tcp = true if plain tcp is what you want)"
            )
    return faults


def _is_host_and_port(rest: str) -> bool:
    host, _, port = rest.rpartition(":")
    is_host = bool(re.fullmatch(r"[A-Za-z0-9._-]+|\*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]", host))
    return is_host and port.isascii() and port.isdecimal() and 0 < int(port) <= 65535


def _is_loopback(rest: str) -> bool:
    host = rest.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
