"""Versions: parts that belong together should have the same one."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding
from jitsu_protocol import __version__
from jitsu_runtime.bus import libzmq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu.doctor.finding import Suite

TOPIC = "versions"
PACKAGES = (
    "pyzmq",
    "pydantic",
    "msgpack",
    "uvloop",
    "dnslib",
    "dnspython",
    "pygit2",
    "typer",
    "libvirt-python",
    "pyxs",
)
OLDEST_LIBZMQ = (4, 3)
"""The first with authenticated peers and heartbeats as they are used here; Debian 11 has 4.3.4."""


@dataclass(frozen=True)
class Facts:
    """Of this machine and of the services."""

    tool: str = __version__
    services: Mapping[str, str] = field(default_factory=dict)
    libzmq: tuple[int, ...] = (4, 3, 5)
    others: Mapping[str, str] = field(default_factory=dict)
    """Shown in reports, but not judged."""


def gather(suite: Suite) -> Facts:
    """Ask the services, and look at what is installed here."""
    others = {"python": platform.python_version(), "kernel": platform.release(), "system": _system()}
    for package in PACKAGES:
        try:
            others[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    services = {name: pong.version for name, pong in suite.pongs.items() if pong is not None}
    return Facts(__version__, services, libzmq.version(), others)


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def judge(facts: Facts) -> list[Finding]:
    """Find parts of another version than this tool."""
    found = []
    for service, version in sorted(facts.services.items()):
        if version != facts.tool:
            what = f"{service} is of version {version}, and this tool of {facts.tool}"
            found.append(Finding(TOPIC, what, f"Install one version of all parts, and restart {service}."))
    if facts.libzmq[:2] < OLDEST_LIBZMQ:
        version = ".".join(map(str, facts.libzmq))
        found.append(Finding(TOPIC, f"libzmq is {version}, which is too old", "Install pyzmq 25 or newer."))
    return found
