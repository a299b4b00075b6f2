"""Which servers are asked for names of others, and for whom: from the settings, resolv.conf(5) and the interfaces.

`dns.forward = system` follows resolv.conf while the process runs: a host that gets its network late, or moves to
another one, has other servers then. Servers that would lead a question back to this one are left out, with a warning
that `jitsu status` shows.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.rules.access import plain
from jitsu_dns.wires.interfaces import own_interfaces
from jitsu_protocol.errors import SetupFault
from jitsu_protocol.limits import Networks

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_dns.rules.forward import Forwarder, Server
    from jitsu_protocol.sections import DnsSettings

DNS_PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")
LOOPBACK = ("127.0.0.0/8", "::1")
LOOK_S = 2.0
"""Between two looks at whether resolv.conf has changed."""
MAX_FILE_BYTES = 64 * 1024
INTERFACES_S = 60.0
"""Between two looks at the interfaces, which costs more where there are thousands."""

log = structlog.get_logger("dns")


@dataclass(frozen=True)
class Found:
    """What holds now."""

    servers: tuple[Server, ...]
    networks: tuple[str, ...]
    """Of the clients for whom questions are forwarded."""
    warnings: tuple[str, ...]

    @property
    def addresses(self) -> frozenset[bytes]:
        """The addresses of the servers."""
        return frozenset(plain(ip_address(address).packed) for address, _ in self.servers)


class Servers:
    """The servers of one replica, looked up anew when what they come from changes."""

    def __init__(self, settings: DnsSettings, port: int, resolv_conf: Path = RESOLV_CONF) -> None:
        """`port` is the one that this server has bound; raises SetupFault if it is configured to ask itself."""
        self._settings, self._port, self._resolv_conf = settings, port, resolv_conf
        self._seen = self._signature()
        self.found = self._look()

    async def follow(self, forwarder: Forwarder) -> None:
        """Look again and again, and give the forwarder what has changed."""
        looks = 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks += 1
            if self.has_changed() or looks * LOOK_S >= INTERFACES_S:
                looks = 0
                self.reload(forwarder)

    def has_changed(self) -> bool:
        """Say whether resolv.conf is another one than the last time."""
        before, self._seen = self._seen, self._signature()
        return before != self._seen

    def reload(self, forwarder: Forwarder) -> None:
        """Look at once, and give the forwarder what has changed."""
        before = self.found
        try:
            found = self._look()
        except SetupFault as fault:  # an address of dns.forward has moved onto this host: that must not end the server
            log.error("the servers to forward to stay as they were", reason=str(fault))
            return
        if found == before:
            return
        self.found = found
        forwarder.reload(found.servers, Networks(found.networks), found.addresses)
        if found.servers != before.servers:
            log.info("other servers are asked from now on", servers=[address for address, _ in found.servers])

    def _signature(self) -> tuple[int, ...]:
        try:
            status = self._resolv_conf.stat()
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _look(self) -> Found:
        settings = self._settings
        warnings: list[str] = []
        if settings.forward == ["system"]:
            servers = self._of_system(warnings)
        else:
            servers = [(text, settings.forward_port) for text in settings.forward]
            for server in servers:
                if leads_back(server, settings.bind, self._port):
                    raise SetupFault(
                        f"dns.forward: {server[0]} port {server[1]} is this server itself",
                        hint="name another, or set dns.forward = off",
                    )
        networks = settings.forward_for or [*LOOPBACK, *_own_networks(warnings)]
        return Found(tuple(servers), tuple(networks), tuple(warnings))

    def _of_system(self, warnings: list[str]) -> list[Server]:
        named = _nameservers(self._resolv_conf)
        found = [server for server in named if not leads_back(server, self._settings.bind, self._port)]
        for address, _ in named:
            if (address, DNS_PORT) not in found:
                warnings.append(f"{self._resolv_conf}: nameserver {address} is this server itself, and is not asked")
        if not found:
            warnings.append(
                f"dns.forward = system, but {self._resolv_conf} names no other server: names of others are not found "
                "until it does, or set dns.forward to addresses, or to off"
            )
        return found


def _nameservers(resolv_conf: Path) -> list[Server]:
    """Return the servers that the file names; none if there is no such file, or it names none."""
    try:
        with resolv_conf.open(errors="replace") as file:
            lines = file.read(MAX_FILE_BYTES).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        keyword, *values = line.split()[:2] or [""]
        if keyword == "nameserver" and values and is_address(values[0]):
            found.append((values[0], DNS_PORT))
    return found


def is_address(text: str) -> bool:
    """Say whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def leads_back(server: Server, bind: str, port: int, is_local: Callable[[str], bool] | None = None) -> bool:
    """Say whether a question sent to a server would reach the one that is bound to `bind` and `port`.

    The unspecified address means this host (ip(7)); one that is bound to all addresses has all of this host's.
    """
    address, asked_port = server
    if asked_port != port:
        return False
    asked, bound = ip_address(address), ip_address(bind)
    if asked.is_unspecified:
        return bound.is_unspecified or bound.is_loopback
    if bound.is_unspecified:
        return (asked.version == bound.version or bound.version == 6) and (is_local or _is_local)(address)
    return plain(asked.packed) == plain(bound.packed)


def _is_local(address: str) -> bool:
    """Say whether an address is this host's: only those can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trying:
            trying.bind((address, 0))
    except OSError:
        return False
    return True


def _own_networks(warnings: list[str]) -> list[str]:
    """Return the networks that this host is in."""
    try:
        interfaces = own_interfaces()
    except OSError as error:
        warnings.append(
            f"the networks of this host are not known ({error.strerror or error}): names of others are found for "
            "loopback only; set dns.forward_for"
        )
        return []
    found = {each.network for each in interfaces if 0 < each.network.prefixlen < each.network.max_prefixlen}
    return sorted(map(str, found))
