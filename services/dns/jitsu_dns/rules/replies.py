"""What several parts of the rules say in a response: the OPT record's extras, and errors as RFC 8914 has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules.message import NO_EXTRAS, Ede, Extras
from jitsu_protocol.model.errors import BackingOff, BootFailed

if TYPE_CHECKING:
    from jitsu_dns.rules.actions import About, Asker
    from jitsu_dns.rules.cookies import Cookies
    from jitsu_dns.rules.message import Query
    from jitsu_protocol.model.errors import JitsuError


def with_error(extras: Extras, code: Ede, text: str) -> Extras:
    """Return the extras with an extended error."""
    return Extras((code, text), extras.cookie, extras.nsid, extras.keepalive)


def error_for(error: JitsuError) -> tuple[Ede, str]:
    """Return the extended error for a reason: the one place where codes become RFC 8914's."""
    if isinstance(error, BackingOff):
        wait = f"; a query can start it again in {error.retry_after:.1f} s" if error.retry_after else ""
        return Ede.CACHED_ERROR, f"{error.message}{wait}"
    if isinstance(error, BootFailed):
        return Ede.OTHER, f"boot failed: {error.message}"
    return Ede.NOT_READY, error.message


def extras_for(query: Query, asker: Asker, about: About, cookies: Cookies, wall: float) -> tuple[Extras, bool]:
    """Return what the query's EDNS options get, and whether its cookie proves the client's address.

    `wall` is Unix time.
    """
    edns = query.edns
    if edns is None or not (edns.cookie or edns.wants_nsid or (edns.wants_keepalive and not asker.udp)):
        return NO_EXTRAS, False
    cookie, proven = b"", False
    if edns.cookie:
        cookie = cookies.answer(edns.cookie, asker.address, wall)
        proven = cookies.is_valid(edns.cookie, asker.address, wall)
    nsid = about.replica.encode() if edns.wants_nsid else b""
    keepalive = int(10 * about.tcp_idle) if edns.wants_keepalive and not asker.udp else None
    return Extras(cookie=cookie, nsid=nsid, keepalive=keepalive), proven
