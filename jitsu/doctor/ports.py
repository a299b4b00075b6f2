"""Ports: whether the ports that the configuration names are free for the suite, or who has them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding
from jitsu_runtime.settings.schema import SECTION_OF

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitsu.doctor.finding import Suite

TOPIC = "ports"
LISTENING = {"tcp": "0A", "udp": "07"}
"""The states of sockets that others can reach (include/net/tcp_states.h; a UDP socket that is not connected)."""
OWN = re.compile(r"\bjitsu[-_](dns|store|vmd|synjitsu|reaper|web|solo5)\b|\bjitsu(\.main)? up\b")


@dataclass(frozen=True)
class Wanted:
    """A port that the configuration names."""

    key: str
    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class Holder:
    """A socket that listens on this machine."""

    protocol: str
    address: str
    port: int
    pid: int | None = None
    command: str = ""
    """The command line of its process, "" if that is not known."""

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to a process of Jitsu."""
        return OWN.search(self.command) is not None


@dataclass(frozen=True)
class PortFacts:
    """PortFacts about this machine."""

    wanted: tuple[Wanted, ...]
    holders: tuple[Holder, ...]


def wanted(suite: Suite) -> Iterator[Wanted]:
    """Yield the ports that the services of this machine bind."""
    dns = suite.settings.dns
    for protocol in ("udp", "tcp"):
        yield Wanted("dns.port", protocol, dns.bind, dns.port)
    for service, section in SECTION_OF.items():
        if listen := suite.settings.metrics(service):
            yield Wanted(f"{section}.metrics", "tcp", listen.host, listen.port)
    if web := suite.settings.web.listen.tcp:
        yield Wanted("web.listen", "tcp", web.host, web.port)
    for key, endpoint in suite.settings.bus.endpoints():
        if not endpoint.path and key != "hosts" and _is_here(endpoint.host):
            yield Wanted(f"bus.{key}", "tcp", endpoint.host, endpoint.port)


def _is_here(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "*"
    return address.is_loopback or address.is_unspecified


def gather(suite: Suite, proc: Path = Path("/proc")) -> PortFacts:
    """Read who listens from /proc/net and /proc/PID/fd (proc(5))."""
    ports = tuple(each for each in wanted(suite) if each.port)
    numbers = {each.port for each in ports}
    sockets: dict[int, Holder] = {}
    for protocol, state in LISTENING.items():
        for version in ("", "6"):
            with suppress(OSError):
                for line in (proc / "net" / f"{protocol}{version}").read_text().splitlines()[1:]:
                    fields = line.split()
                    address, _, port = fields[1].partition(":")
                    if fields[3] == state and int(port, 16) in numbers:
                        sockets[int(fields[9])] = Holder(protocol, _address(address), int(port, 16))
    owners = _owners(sockets.keys(), proc)
    return PortFacts(ports, tuple(_with_owner(each, owners.get(inode), proc) for inode, each in sockets.items()))


def _address(text: str) -> str:
    """Return an address of /proc/net/tcp, whose 32-bit words stand in the machine's own (little-endian) order."""
    packed = b"".join(bytes.fromhex(text[n : n + 8])[::-1] for n in range(0, len(text), 8))
    return str(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))


def _owners(inodes: Sequence[int] | object, proc: Path) -> dict[int, int]:
    """Return which process has each socket open, as far as this user may see."""
    found: dict[int, int] = {}
    for process in proc.iterdir() if proc.is_dir() else ():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:["):
                        found.setdefault(int(target[8:-1]), int(process.name))
    return found


def _with_owner(holder: Holder, pid: int | None, proc: Path) -> Holder:
    if pid is None:
        return holder
    command = ""
    with suppress(OSError):
        command = (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return Holder(holder.protocol, holder.address, holder.port, pid, command)


def judge(facts: PortFacts) -> list[Finding]:
    """Find ports that another program has."""
    found = []
    for want in facts.wanted:
        for holder in facts.holders:
            if holder.is_ours or holder.protocol != want.protocol or holder.port != want.port:
                continue
            if _overlap(want.address, holder.address):
                who = _who(holder)
                what = f"{want.protocol.upper()} port {want.port} of {holder.address} is taken by {who}, "
                found.append(Finding(TOPIC, f"{what}and {want.key} is {_shown(want)}", _advice(want, holder)))
                break
    return found


def _overlap(one: str, other: str) -> bool:
    a, b = ip_address(one if one != "*" else "::"), ip_address(other)
    return a == b or any(each.is_unspecified and (each.version == 6 or a.version == b.version) for each in (a, b))


def _who(holder: Holder) -> str:
    if holder.pid is None:
        return "a process that only root can see"
    return f"{Path(holder.command.split(' ')[0]).name or 'a process'} (process {holder.pid})"


def _shown(want: Wanted) -> str:
    return f"{want.address} port {want.port}" if want.key == "dns.port" else f"{want.address}:{want.port}"


def _advice(want: Wanted, holder: Holder) -> str:
    if holder.pid is None:
        return f"Run `jitsu doctor` as root to see which process that is, then stop it or change {want.key}."
    if "systemd-resolve" in holder.command:
        return "Set dns.bind to another address than 127.0.0.53, or DNSStubListener=no in /etc/systemd/resolved.conf."
    if "dnsmasq" in holder.command:
        return "Let dnsmasq have its own address (listen-address=, bind-interfaces), and set dns.bind to another one."
    if want.key == "dns.port":
        return "Stop that process, or set dns.bind to another address, or dns.port to another port."
    return f"Stop that process, or set {want.key} to another port."
