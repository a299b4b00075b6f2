"""Which names a browser may call this server by (the Host header), and from which pages it may be changed (Origin).

A page of another site can have its own name resolve to this server (DNS rebinding). The browser then treats this server
as part of that site, but it still sends that site's name as the Host, and is refused.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HostNames:
    """The names of this server."""

    def __init__(self, listen_host: str, more: Iterable[str] = (), *, is_unix: bool = False) -> None:
        """`listen_host` is the address that is bound. No browser reaches a Unix socket, so there any name is right."""
        self._is_any = is_unix
        self._is_every_address = listen_host in ("0.0.0.0", "::", "")
        self._names = {_canonical(each) for each in (*LOOPBACK, *more)}
        if not self._is_every_address:
            self._names.add(_canonical(listen_host))

    def allows(self, host: str) -> bool:
        """Return whether a Host header is right: NAME or NAME:PORT."""
        if self._is_any:
            return True
        name = _canonical(_without_port(host))
        return name in self._names or (self._is_every_address and _is_address(name))


def is_same_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header names the server that the Host header names."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and ":" not in name else host


def _canonical(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")


def _is_address(name: str) -> bool:
    # An address cannot be rebound: a page is only asked for under it if somebody typed it.
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
