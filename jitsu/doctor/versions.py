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
    from collections.abc import Iterable, Mapping

    from jitsu.doctor.finding import Suite

TOPIC = "versions"
OURS = ("protocol", "runtime", "store", "vmd", "dns", "synjitsu", "reaper", "web")
"""The distributions beside the tool's own, jitsu-NAME; on a machine that runs only some services others are absent."""
PACKAGES = (
    "pyzmq",
    "pydantic",
    "msgpack",
    "uvloop",
    "dnslib",
    "dnspython",
    "pygit2",
    "typer",
    "tomlkit",
    "libvirt-python",
    "pyxs",
)
OLDEST_LIBZMQ = (4, 3)
"""The first with authenticated peers and heartbeats as they are used here; Debian 11 has 4.3.4."""


@dataclass(frozen=True)
class VersionFacts:
    """Of this machine and of the services."""

    tool: str = __version__
    services: Mapping[str, str] = field(default_factory=dict)
    installed: Mapping[str, str] = field(default_factory=dict)
    """Our own distributions on this machine."""
    libzmq: tuple[int, ...] = (4, 3, 5)
    others: Mapping[str, str] = field(default_factory=dict)
    """Shown in reports, but not judged."""


def gather(suite: Suite) -> VersionFacts:
    """Ask the services, and look at what is installed here."""
    others = {"python": platform.python_version(), "kernel": platform.release(), "system": _system()}
    services = {name: pong.version for name, pong in suite.pongs.items() if pong is not None}
    installed = _versions(f"jitsu-{name}" for name in OURS)
    return VersionFacts(__version__, services, installed, libzmq.version(), others | _versions(PACKAGES))


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def judge(facts: VersionFacts) -> list[Finding]:
    """Find parts of another version than this tool."""
    found = []
    for service, version in sorted(facts.services.items()):
        if version != facts.tool:
            what = f"{service} is of version {version}, and this tool of {facts.tool}"
            found.append(Finding(TOPIC, what, f"Install one version of all parts, and restart {service}."))
    for package, version in sorted(facts.installed.items()):
        if version != facts.tool:
            what = f"{package} {version} is installed, and this tool is of {facts.tool}"
            found.append(Finding(TOPIC, what, "Install one version of all parts."))
    if facts.libzmq[:2] < OLDEST_LIBZMQ:
        version = ".".join(map(str, facts.libzmq))
        found.append(Finding(TOPIC, f"libzmq is {version}, which is too old", "Install pyzmq 25 or newer."))
    return found
