"""What an engine says of a container, as vmd has it: its state, why it ended, its interfaces, and its labels.

An engine describes a container in two forms: at length when it is asked for this one, and briefly in the list of all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisor import Discovered, Guest, Nic
from jitsu_vmd.hypervisors.docker.rules.creation import MADE_FOR, MADE_OF
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_vmd.hypervisors.docker.rules.networks import Network

LABEL = "jitsu."
"""Labels that begin so are keys of a VM: `jitsu.dns`, `jitsu.ttl`."""
STOPPED_BY_A_SIGNAL = (137, 143)
"""128 + SIGKILL and SIGTERM: somebody has stopped it, unless there was no memory left."""
LOG_LINES, LOG_CHARACTERS = 5, 600
"""Of what a container printed last, that much is part of the reason."""
_RUNNING = ("running", "restarting")
_ALIVE = (*_RUNNING, "paused")


@dataclass(frozen=True)
class Joined:
    """A container's place on a network."""

    network: str
    mac: str = ""
    """"" if it is off, and has no fixed one."""
    addresses: tuple[str, ...] = ()
    """Those that it has, or will have because they are fixed."""


@dataclass(frozen=True)
class Ending:
    """How a container ended the last time."""

    exit_code: int = 0
    is_out_of_memory: bool = False
    error: str = ""
    """Why the engine could not start it."""
    at: str = ""
    """As the engine writes it; "" if it was only listed."""


@dataclass(frozen=True)
class Container:
    """A container."""

    id: str
    name: str
    state: str
    """created, running, paused, restarting, removing, exited or dead."""
    ending: Ending = Ending()
    started_at: float | None = None
    """Unix time."""
    stop_signal: str = "SIGTERM"
    """What asks it to end."""
    labels: Mapping[str, str] = field(default_factory=dict)
    joined: tuple[Joined, ...] = ()
    ports: tuple[int, ...] = ()
    """TCP ports that its image exposes, or that are published."""
    published: tuple[str, ...] = ()
    """Addresses of the host at which its ports are published; "" stands for all."""
    has_writable_mounts: bool = False
    is_removed_when_it_ends: bool = False

    @property
    def is_running(self) -> bool:
        """Whether its processes run."""
        return self.state in _RUNNING

    @property
    def is_paused(self) -> bool:
        """Whether its processes are frozen."""
        return self.state == "paused"

    @property
    def made_for(self) -> str:
        """The uuid of the VM that it was made for; "" if others made it."""
        return self.labels.get(MADE_FOR, "")

    @property
    def made_of(self) -> str:
        """The digest of the request that made it; "" if others made it."""
        return self.labels.get(MADE_OF, "")


def inspected(found: dict[str, Any]) -> Container:
    """Return a container from the answer to a question about it alone."""
    state, config, host = found.get("State") or {}, found.get("Config") or {}, found.get("HostConfig") or {}
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    fixed_mac = str(config.get("MacAddress") or "")
    bindings = host.get("PortBindings") or {}
    return Container(
        id=str(found["Id"]),
        name=str(found.get("Name") or "").lstrip("/"),
        state=str(state.get("Status") or ""),
        ending=Ending(
            exit_code=int(state.get("ExitCode") or 0),
            is_out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
            at=str(state.get("FinishedAt") or ""),
        ),
        stop_signal=str(config.get("StopSignal") or "SIGTERM"),
        started_at=unix_time(str(state.get("StartedAt") or "")),
        labels=_labels(config.get("Labels")),
        joined=_joined(networks, fixed_mac if len(networks) == 1 else ""),
        published=tuple(str(each.get("HostIp") or "") for each_port in bindings.values() for each in each_port or ()),
        has_writable_mounts=any(each.get("RW") for each in found.get("Mounts") or ()),
        is_removed_when_it_ends=bool(host.get("AutoRemove")),
    )


def listed(found: dict[str, Any]) -> Container:
    """Return a container from its entry in the list of all, which does not say everything."""
    names = [str(name).lstrip("/") for name in found.get("Names") or ()]
    ports = found.get("Ports") or ()
    exit_code = re.match(r"Exited \((-?[0-9]{1,10})\)", str(found.get("Status") or ""))
    return Container(
        id=str(found["Id"]),
        name=next((name for name in names if "/" not in name), ""),  # the others are those of links
        state=str(found.get("State") or "").lower(),
        ending=Ending(int(exit_code[1]) if exit_code else 0),
        labels=_labels(found.get("Labels")),
        joined=_joined((found.get("NetworkSettings") or {}).get("Networks") or {}, ""),
        ports=tuple(sorted({int(each["PrivatePort"]) for each in ports if each.get("Type") == "tcp"})),
        published=tuple(str(each.get("IP") or "") for each in ports if each.get("PublicPort")),
    )


def _labels(labels: object) -> dict[str, str]:
    return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}


def _joined(networks: dict[str, Any], fixed_mac: str) -> tuple[Joined, ...]:
    found = []
    for name, each in networks.items():
        fixed = each.get("IPAMConfig") or {}
        addresses = (
            each.get("IPAddress") or fixed.get("IPv4Address"),
            each.get("GlobalIPv6Address") or fixed.get("IPv6Address"),
        )
        mac = str(each.get("MacAddress") or fixed_mac).lower()
        found.append(Joined(str(name), mac, tuple(str(address) for address in addresses if address)))
    return tuple(found)


def unix_time(text: str) -> float | None:
    """Return a time of the engine (RFC 3339, with nanoseconds) in seconds; None if there is none."""
    match = re.fullmatch(r"([0-9T:-]{19})(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})", text)
    if match is None or text.startswith("0001"):
        return None
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp()
    return whole + float(f"0{match[2] or '.0'}")


def guest(container: Container, networks: Mapping[str, Network], wall: float, log: str = "") -> Guest:
    """Return a container as a guest; `wall` is Unix time, and `log` what it printed last if it has ended."""
    nics = tuple(
        Nic(joined.mac, networks[joined.network].bridge if joined.network in networks else "")
        for joined in container.joined
    )
    if container.is_paused:
        return Guest(GuestState.PAUSED, nics=nics)
    if container.is_running:
        up_s = None if container.started_at is None else max(wall - container.started_at, 0.0)
        return Guest(GuestState.RUNNING, up_s, nics=nics)
    return Guest(
        GuestState.CRASHED if has_crashed(container) else GuestState.OFF, reason=why_it_ended(container, log), nics=nics
    )


def has_crashed(container: Container) -> bool:
    """Say whether a container that does not run has failed, and was not stopped by somebody."""
    if container.state not in ("exited", "dead"):
        return False
    ended = container.ending
    return ended.is_out_of_memory or bool(ended.error) or ended.exit_code not in (0, *STOPPED_BY_A_SIGNAL)


def why_it_ended(container: Container, log: str) -> str:
    """Return why a container has ended, with what it printed last; "" if it has never run."""
    ended = container.ending
    if ended.error:
        return f"the container {container.name} could not be started: {ended.error[:LOG_CHARACTERS]}"
    if container.state not in ("exited", "dead"):
        return ""
    what = "had no memory left" if ended.is_out_of_memory else f"has ended with status {ended.exit_code}"
    return f"the container {container.name} {what}{f'; it printed last: {log}' if log else ''}"


def log_tail(raw: bytes) -> str:
    """Return the last lines of a log as one line of text.

    The engine puts a header before each piece of it: the stream, and the length in bytes (Docker's API, "attach to a
    container"). A container with a terminal has a log without headers.
    """
    parts, at = [], 0
    while at + 8 <= len(raw) and raw[at] in (0, 1, 2) and raw[at + 1 : at + 4] == b"\0\0\0":
        length = int.from_bytes(raw[at + 4 : at + 8], "big")
        parts.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    text = (b"".join(parts) if parts else raw).decode("utf-8", "replace")
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
    tail = " | ".join([line for line in lines if line][-LOG_LINES:])
    return tail if len(tail) <= LOG_CHARACTERS else f"...{tail[-LOG_CHARACTERS:]}"


def discovered(container: Container, networks: Mapping[str, Network]) -> Discovered:
    """Return a container as a machine that a VM may be configured for."""
    described = {key.removeprefix(LABEL): value for key, value in container.labels.items() if key.startswith(LABEL)}
    return Discovered(
        container.name,
        container.made_for,
        container.state in _ALIVE,
        tuple(
            Nic(joined.mac, networks[joined.network].bridge if joined.network in networks else "")
            for joined in container.joined
        ),
        tuple(address for joined in container.joined for address in joined.addresses),
        container.ports,
        keys=described,
    )
