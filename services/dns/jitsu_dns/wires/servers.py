"""Which servers are asked about names of others, and for whom: from the settings, resolv.conf(5) and the interfaces.

`dns.forward = system` follows resolv.conf while the process runs: a host that gets its network late, or moves to
another one, has other servers then. Servers that would lead a question back to this one are left out, with a warning
that `jitsu status` shows; what is configured so that it could never be right is refused at start.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from jitsu_dns.rules.clients import plain
from jitsu_dns.rules.forward import ServersChanged
from jitsu_protocol.model.errors import SetupFault
from jitsu_protocol.rates import Networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network

    from jitsu_dns.rules.health import Server
    from jitsu_dns.wires.interfaces import OwnAddress
    from jitsu_runtime.settings.schema import DnsSettings
    from jitsu_runtime.settings.values import Forwarding

DNS_PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
LOOK_S = 2.0
"""Between two looks at whether resolv.conf has changed."""
MAX_FILE_BYTES = 64 * 1024

log = structlog.get_logger("dns")


@dataclass(frozen=True)
class Found:
    """The servers and clients that apply now."""

    servers: tuple[Server, ...]
    networks: tuple[IPv4Network | IPv6Network, ...]
    """Of the clients for whom questions are forwarded."""
    warnings: tuple[str, ...]


class HandlesServers(Protocol):
    """What drives the rules."""

    def handle(self, event: ServersChanged) -> None:
        """Handle that there are other servers or clients."""


class Servers:
    """The servers of one replica, looked up again when what they come from changes."""

    def __init__(
        self,
        settings: DnsSettings,
        port: int,
        interfaces: Callable[[], list[OwnAddress]],
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        """`port` is the one that this server has bound; `interfaces` returns this host's addresses, or raises OSError.

        Raises SetupFault if this server is configured to ask itself.
        """
        self._settings, self._port, self._resolv_conf = settings, port, resolv_conf
        self._own_interfaces = interfaces
        refuse_itself(settings, port)
        self._seen = self._signature()
        self.found = self._look()

    async def follow(self, rules: HandlesServers) -> None:
        """Look again and again at resolv.conf, and hand over what has changed."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.has_changed():
                self.reload(rules)

    def has_changed(self) -> bool:
        """Return whether resolv.conf is another one than the last time."""
        before, self._seen = self._seen, self._signature()
        return before != self._seen

    def reload(self, rules: HandlesServers) -> None:
        """Look at once, and hand over what has changed."""
        before, found = self.found, self._look()
        if found == before:
            return
        self.found = found
        rules.handle(ServersChanged(found.servers, Networks(found.networks)))
        if found.servers != before.servers:
            log.info(
                "queries are forwarded to other servers from now on", servers=[address for address, _ in found.servers]
            )

    def _signature(self) -> tuple[int, ...]:
        try:
            status = self._resolv_conf.stat()
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _look(self) -> Found:
        settings = self._settings
        warnings: list[str] = []
        try:
            interfaces: list[OwnAddress] | None = self._own_interfaces()
        except OSError as error:
            interfaces = None
            if not settings.forward_for:
                warnings.append(
                    f"cannot read the networks of this host ({error.strerror or error}): names outside our zones are "
                    "found for loopback clients only; set dns.forward_for"
                )
        named, where = [(str(each), settings.forward_port) for each in settings.forward.addresses], "dns.forward: "
        if settings.forward.follows_system:
            named, where = _nameservers(self._resolv_conf), f"{self._resolv_conf}: nameserver "
        is_local = _can_be_bound if interfaces is None else partial(_is_among, interfaces)
        found = [server for server in named if not leads_back(server, settings.bind, self._port, is_local)]
        warnings += [
            f"{where}{each[0]} is this server itself, so queries are not forwarded to it"
            for each in named
            if each not in found
        ]
        if not found:
            warnings.append(_none_left(settings.forward, self._resolv_conf))
        networks = settings.forward_for or [*LOOPBACK, *_networks(interfaces or [])]
        return Found(tuple(found), tuple(networks), tuple(warnings))


def refuse_itself(settings: DnsSettings, port: int) -> None:
    """Raise SetupFault for a server that is this one wherever this host is; an address of an interface may move."""
    for address in settings.forward.addresses:
        if leads_back((str(address), settings.forward_port), settings.bind, port, _is_always_local):
            raise SetupFault(
                f"dns.forward: {address} port {settings.forward_port} is this server itself",
                hint="name another, or set dns.forward = off",
            )


def _none_left(forward: Forwarding, resolv_conf: Path) -> str:
    if forward.follows_system:
        return (
            f"dns.forward = system, but {resolv_conf} names no other server: names outside our zones are not "
            "found until it does; or set dns.forward to addresses, or to off"
        )
    return (
        "dns.forward names no other server: names outside our zones are not found; "
        "add one there, or set dns.forward = off"
    )


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
    """Return whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def leads_back(server: Server, bind: str, port: int, is_local: Callable[[str], bool]) -> bool:
    """Return whether a question sent to a server would reach the one that is bound to `bind` and `port`.

    The unspecified address means this host (ip(7)); one that is bound to all addresses has all of this host's, of
    which `is_local` knows.
    """
    address, asked_port = server
    if asked_port != port:
        return False
    asked, bound = ip_address(address), ip_address(bind)
    if asked.is_unspecified:
        return bound.is_unspecified or bound.is_loopback
    if bound.is_unspecified:
        return (asked.version == bound.version or bound.version == 6) and is_local(address)
    return plain(asked.packed) == plain(bound.packed)


def _is_always_local(address: str) -> bool:
    """Return whether an address is that of any host itself: 127.0.0.0/8 and ::1."""
    packed = plain(ip_address(address).packed)
    return ip_address(packed).is_loopback


def _is_among(interfaces: list[OwnAddress], address: str) -> bool:
    """Return whether an address is one of this host's."""
    packed = plain(ip_address(address).packed)
    return _is_always_local(address) or any(packed == each.interface.ip.packed for each in interfaces)


def _can_be_bound(address: str) -> bool:
    """Return whether an address can be bound: only this host's can, unless net.ipv4.ip_nonlocal_bind is 1 (ip(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trying:
            trying.bind((address, 0))
    except OSError:
        return False
    return True


def _networks(interfaces: list[OwnAddress]) -> list[IPv4Network | IPv6Network]:
    """Return the networks that this host is in."""
    networks = {each.interface.network for each in interfaces if each.is_lasting}
    return sorted((each for each in networks if 0 < each.prefixlen < each.max_prefixlen), key=str)
