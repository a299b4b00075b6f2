"""One question and its answer: who asked what, and everything that goes into the response.

These are made for each query that has no warm answer. They are not frozen because Python takes three times as long to
make a frozen one; nobody changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_dns.rules.message import NO_EXTRAS, NO_RECORDS, Extras, cookie_reply, respond, truncated

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_dns.rules.cookies import Cookies
    from jitsu_dns.rules.message import Ede, Query, Rcode, Records


@dataclass(slots=True)
class Client:
    """Where a query came from."""

    id: Hashable
    """What a response is sent to."""
    address: bytes
    """4 or 16 bytes."""
    udp: bool


@dataclass(slots=True)
class Exchange:
    """A well-formed query, its client, and the options of its response."""

    data: bytes
    """The packet as it came."""
    query: Query
    client: Client
    options: Extras = NO_EXTRAS
    """What the response's OPT record says."""
    is_proven: bool = False
    """The client has shown that its address is its own, so its responses are not limited."""
    arrived: float = 0.0
    """When the packet came. A question that was held came earlier than it is looked at."""

    def respond(
        self,
        rcode: Rcode,
        records: Records = NO_RECORDS,
        *,
        authoritative: bool = False,
        error: tuple[Ede, str] | None = None,
    ) -> bytes:
        """Return a response; `error` is an extended error (RFC 8914)."""
        extras = self.options if error is None else with_error(self.options, *error)
        return respond(self.query, rcode, records, authoritative=authoritative, udp=self.client.udp, extras=extras)

    def truncated(self, *, authoritative: bool = True) -> bytes:
        """Return a response without records that sends the client to TCP."""
        return truncated(self.query, authoritative=authoritative)


@dataclass(frozen=True)
class SelfDescription:
    """What a replica says about itself (class CH; NSID), and how long it keeps idle TCP connections."""

    version: str = ""
    """Empty if clients are not to know it."""
    replica: str = ""
    tcp_idle: float = 10.0
    """Seconds."""


@dataclass(frozen=True)
class ServerIdentity:
    """What a replica says about itself, and the secret with which it makes cookies."""

    about: SelfDescription
    cookies: Cookies
    wall_ahead_s: float = 0.0
    """How far Unix time is ahead of `now`: cookies carry Unix time."""

    def exchange(self, data: bytes, query: Query, client: Client, now: float) -> Exchange:
        """Return the exchange that a query begins, with the answers to its EDNS options."""
        edns = query.edns
        if edns is None or not (edns.cookie or edns.wants_nsid or (edns.wants_keepalive and not client.udp)):
            return Exchange(data, query, client, arrived=now)
        cookie, is_proven = b"", False
        if edns.cookie:
            cookie = self.cookies.answer(edns.cookie, client.address, now + self.wall_ahead_s)
            is_proven = self.is_proven(edns.cookie, client, now)
        nsid = self.about.replica.encode() if edns.wants_nsid else b""
        keepalive = int(10 * self.about.tcp_idle) if edns.wants_keepalive and not client.udp else None
        return Exchange(data, query, client, Extras(None, cookie, nsid, keepalive), is_proven, now)

    def is_proven(self, cookie: bytes, client: Client, now: float) -> bool:
        """Return whether a cookie shows that a client's address is its own."""
        return self.cookies.is_valid(cookie, client.address, now + self.wall_ahead_s)

    def cookie_reply(self, data: bytes, cookie: bytes, client: Client, now: float) -> bytes:
        """Return the answer to a packet that asks for nothing but a cookie (RFC 7873, 5.4)."""
        return cookie_reply(data, self.cookies.answer(cookie, client.address, now + self.wall_ahead_s))


def with_error(extras: Extras, code: Ede, text: str) -> Extras:
    """Return the extras with an extended error."""
    return Extras((code, text), extras.cookie, extras.nsid, extras.keepalive)
