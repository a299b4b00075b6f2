"""Typed values of settings: what text in jitsu.toml, a flag or a variable means, parsed once.

Each type has a parser that raises ValueError with the reason, and its text form is what the parser reads: that is how
settings pass to a child of `jitsu up`, and how the reference shows a default.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from jitsu_protocol.model.hypervisors import HypervisorConnection, connection
from jitsu_protocol.model.vm_keys import DnsName, dns_name, host_name

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108 (unix(7))


MAX_IPC_PATH_BYTES = 100
"""sun_path holds 108 (unix(7)); a lock file beside it ends in .lock."""
FIRST_FREE_USER, LAST_USER = 65_536, 2**32 - 2
"""Users below are given by the system, and 65,534 and 65,535 mean nobody."""


@dataclass(frozen=True)
class ListenAddress:
    """Where a service listens for HTTP; it is false if it does not."""

    host: str = ""
    """A name or an address, without brackets."""
    port: int = 0

    def __bool__(self) -> bool:
        """Return whether the service listens."""
        return bool(self.host)

    def __str__(self) -> str:
        """Return HOST:PORT, or nothing."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self else ""

    def numbered(self, number: int) -> ListenAddress:
        """Return where the process with that number listens, if number 0 listens here."""
        return replace(self, port=self.port + number) if self.port else self


@dataclass(frozen=True)
class WebAddress:
    """Where jitsu-web listens: an address, or the path of a Unix socket; it is false if it does not."""

    tcp: ListenAddress = field(default_factory=ListenAddress)
    path: str = ""

    def __bool__(self) -> bool:
        """Return whether it listens."""
        return bool(self.tcp) or bool(self.path)

    def __str__(self) -> str:
        """Return HOST:PORT, unix:/PATH, or nothing."""
        return f"unix:{self.path}" if self.path else str(self.tcp)

    @property
    def is_loopback(self) -> bool:
        """Return whether nothing beyond this machine can reach it."""
        host = self.tcp.host
        return bool(self.path) or host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True)
class VmHost:
    """A further host that has a vmd; without endpoints that vmd is reached over ipc."""

    name: str
    rpc: BusEndpoint | None = None
    feed: BusEndpoint | None = None

    def __str__(self) -> str:
        """Return `NAME` or `NAME RPC-ENDPOINT FEED-ENDPOINT`."""
        return " ".join([self.name, *(str(each) for each in (self.rpc, self.feed) if each is not None)])


@dataclass(frozen=True)
class BusEndpoint:
    """Where a socket of the bus is: a file on this machine, or a port."""

    path: str = ""
    """Of a Unix socket; empty for tcp."""
    host: str = ""
    """A name, an address or * for all addresses, without brackets."""
    port: int = 0

    @property
    def is_loopback(self) -> bool:
        """Whether what it carries never leaves this machine."""
        return bool(self.path) or self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        """Return it as ZeroMQ reads it: ipc://PATH or tcp://HOST:PORT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ipc://{self.path}" if self.path else f"tcp://{host}:{self.port}"


@dataclass(frozen=True)
class UserIds:
    """A range of user ids of this machine."""

    first: int
    last: int

    @property
    def ids(self) -> range:
        """The ids themselves."""
        return range(self.first, self.last + 1)

    def __str__(self) -> str:
        """Return FIRST-LAST."""
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Forwarding:
    """Which servers queries for other names are forwarded to; it is false if to none."""

    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    follows_system: bool = False
    """Those of resolv.conf(5), as it is at the time."""

    def __bool__(self) -> bool:
        """Return whether queries are forwarded."""
        return bool(self.addresses) or self.follows_system

    def __str__(self) -> str:
        """Return the addresses, `system` or `off`."""
        return ",".join(map(str, self.addresses)) or ("system" if self.follows_system else "off")


class GlueAddress(NamedTuple):
    """An address of a name server."""

    name: str
    address: IPv4Address | IPv6Address

    def __str__(self) -> str:
        """Return NAME=ADDRESS."""
        return f"{self.name}={self.address}"


class ServerAddress(NamedTuple):
    """Where a DNS server listens."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        """Return ADDRESS or ADDRESS@PORT."""
        return self.address if self.port == 53 else f"{self.address}@{self.port}"


def listen_address(text: str) -> ListenAddress:
    """Read HOST:PORT; nothing is no address."""
    if not text:
        return ListenAddress()
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 <= int(port) <= 65535):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return ListenAddress(host.strip("[]"), int(port))


def web_address(text: str) -> WebAddress:
    """Read HOST:PORT or unix:/PATH; nothing is no address."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(
                f"{text!r} is not unix: and an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes; "
                "for example unix:/run/jitsu/web.http"
            )
        return WebAddress(path=path)
    return WebAddress(tcp=listen_address(text))


def vm_host(text: str) -> VmHost:
    """Read NAME or NAME RPC-ENDPOINT FEED-ENDPOINT."""
    parts = text.split()
    if len(parts) not in (1, 3):
        raise ValueError(f"{text!r} is neither NAME nor NAME RPC-ENDPOINT FEED-ENDPOINT")
    return VmHost(host_name(parts[0]), *map(endpoint, parts[1:]))


def endpoint(text: str) -> BusEndpoint:
    """Read ipc://PATH or tcp://HOST:PORT."""
    scheme, _, rest = text.partition("://")
    if scheme == "ipc" and rest:
        if len(os.fsencode(rest)) > MAX_IPC_PATH_BYTES:
            raise ValueError(f"{rest!r} is too long for a Unix socket ({MAX_IPC_PATH_BYTES} bytes at most)")
        return BusEndpoint(path=rest)
    if scheme != "tcp" or not rest:
        raise ValueError(f"{text!r} is neither ipc:// nor tcp://")
    host, _, port = rest.rpartition(":")
    is_host = re.fullmatch(r"[A-Za-z0-9._-]+|\*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]", host)
    if not (is_host and port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
        raise ValueError(f"{text!r} is not tcp://HOST:PORT, with a PORT from 1 to 65535")
    return BusEndpoint(host=host.strip("[]"), port=int(port))


def endpoint_or_default(text: str) -> BusEndpoint | None:
    """Read an endpoint; nothing is the default, which depends on the runtime directory."""
    return endpoint(text) if text else None


def user_ids(text: str) -> UserIds:
    """Read FIRST-LAST."""
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    if match is None or not FIRST_FREE_USER <= int(match[1]) <= int(match[2]) <= LAST_USER:
        raise ValueError(
            f"{text[:100]!r} is not a range of user ids; expected FIRST-LAST, both from {FIRST_FREE_USER} to "
            f"{LAST_USER}, for example 1900000000-1900065535"
        )
    return UserIds(int(match[1]), int(match[2]))


def cookie_secret(text: str) -> bytes:
    """Read 32 hexadecimal digits; nothing is no secret. The error does not show what was written."""
    if not re.fullmatch("([0-9a-fA-F]{32})?", text):
        raise ValueError("must be 32 hexadecimal digits; `openssl rand -hex 16` prints some")
    return bytes.fromhex(text)


def forwarding(texts: list[str]) -> Forwarding:
    """Read addresses, or one of the words `system` and `off`."""
    if texts == ["system"]:
        return Forwarding(follows_system=True)
    if texts in ([], ["off"], ["0.0.0.0"]):  # the last as in the original
        return Forwarding()
    return Forwarding(tuple(map(ip_address, texts)))


def glue_address(text: str) -> GlueAddress:
    """Read NAME=ADDRESS."""
    name, equals, address = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=ADDRESS")
    return GlueAddress(dns_name(name), ip_address(address))


def server_address(text: str) -> ServerAddress:
    """Read ADDRESS or ADDRESS@PORT, as Knot and NSD write it."""
    address, at, port = text.partition("@")
    if at and not (port.isdecimal() and 0 < int(port) <= 65535):
        raise ValueError(f"{text!r} is neither ADDRESS nor ADDRESS@PORT")
    return ServerAddress(str(ip_address(address)), *([int(port)] if at else []))


def network(text: str) -> IPv4Network | IPv6Network:
    """Read an address with or without a prefix length; bits beyond that length are cleared."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; expected something like 192.0.2.0/24") from None


def interface(text: str) -> IPv4Interface | IPv6Interface:
    """Read an address with its prefix length."""
    try:
        return ip_interface(text)
    except ValueError:
        raise ValueError(f"{text[:100]!r} is not an address with its prefix length, such as 10.0.0.1/24") from None


def usable(text: str) -> str:
    """Refuse what can be no path, address or name anywhere: the system's calls take neither of these characters."""
    if "\0" in text:
        raise ValueError(f"{text[:100]!r} has the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text[:100]!r} is not Unicode text") from None
    return text


def read_with(parse: Callable[[str], object]) -> PlainValidator:
    """Return what lets pydantic read text with a parser; a value that is parsed already stays as it is."""

    def read(value: object) -> object:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool | int | float | list | dict):
            raise ValueError(f"{repr(value)[:80]} is not text; are quotes missing?")
        return value

    return PlainValidator(read)


def _split(value: object) -> object:
    """Take text as a list: parts are divided by commas, or stand on lines of their own."""
    return [part for part in re.split("[,\n]", value) if part] if isinstance(value, str) else value


def split_lines(value: object) -> object:
    """Take text as a list with an item for each line."""
    return [line for line in value.splitlines() if line] if isinstance(value, str) else value


def _read_forwarding(value: object) -> object:
    texts = _split(value)
    if isinstance(texts, Forwarding):
        return texts
    if not isinstance(texts, list):
        raise ValueError(f"{repr(texts)[:80]} is not text; are quotes missing?")
    if wrong := next((each for each in texts if not isinstance(each, str)), None):
        raise ValueError(f"{repr(wrong)[:80]} is not text; are quotes missing?")
    return forwarding(texts)


def _ip_text(text: str) -> str:
    ip_address(text)
    return text


def _bridge_name(text: str) -> str:
    if not re.fullmatch(r"[^\s/:]{1,15}", text) or text in (".", ".."):  # as the kernel's dev_valid_name
        raise ValueError(f"{text[:100]!r} is not the name of a bridge: 15 characters at most, without blanks, / and :")
    return text


def _own_host(text: str) -> str:
    return host_name(text) if text else ""


def _each_once(hosts: list[VmHost]) -> list[VmHost]:
    names = [host.name for host in hosts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the host {twice} is listed twice")
    return hosts


_AS_TEXT = PlainSerializer(str, when_used="json")
_SPLIT = BeforeValidator(_split)

IpText = Annotated[str, AfterValidator(_ip_text)]
OwnHost = Annotated[str, AfterValidator(_own_host)]
Listen = Annotated[ListenAddress, read_with(listen_address), _AS_TEXT]
WebListen = Annotated[WebAddress, read_with(web_address), _AS_TEXT]
HostHeaders = Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:\[\]-]{1,255}$")]], _SPLIT]
Names = Annotated[list[DnsName], _SPLIT]
Labels = Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]], _SPLIT]
Servers = Annotated[Forwarding, PlainValidator(_read_forwarding), _AS_TEXT]
OptionalEndpoint = Annotated[
    BusEndpoint | None, read_with(endpoint_or_default), PlainSerializer(lambda each: str(each or ""), when_used="json")
]
UserRange = Annotated[UserIds, read_with(user_ids), _AS_TEXT]
BridgeNames = Annotated[list[Annotated[str, AfterValidator(_bridge_name)]], _SPLIT]
IpNetwork = IPv4Network | IPv6Network
IpInterface = IPv4Interface | IPv6Interface
Interfaces = Annotated[list[Annotated[IpInterface, read_with(interface), _AS_TEXT]], _SPLIT]
Networks = Annotated[list[Annotated[IpNetwork, read_with(network), _AS_TEXT]], _SPLIT]
Glue = Annotated[list[Annotated[GlueAddress, read_with(glue_address), _AS_TEXT]], _SPLIT]
Secondaries = Annotated[list[Annotated[ServerAddress, read_with(server_address), _AS_TEXT]], _SPLIT]
Hosts = Annotated[list[Annotated[VmHost, read_with(vm_host), _AS_TEXT]], _SPLIT, AfterValidator(_each_once)]
Connections = Annotated[list[Annotated[HypervisorConnection, read_with(connection), _AS_TEXT]], _SPLIT]
Lines = Annotated[list[str], BeforeValidator(split_lines)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
CookieSecret = Annotated[bytes, read_with(cookie_secret), PlainSerializer(bytes.hex, when_used="json")]
