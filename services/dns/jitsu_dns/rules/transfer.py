"""A zone given to a secondary (AXFR, RFC 5936), as it was when the transfer began.

    begun        the names that there are, are noted; nothing is copied
    a name is    what it had is kept for the transfer first, unless it has been sent already; names that come later
    changed      are not in it
    a message    the next names' records, up to MESSAGE_BYTES; made only when the connection can take it
    ended        SOA at the end, as at the beginning; or the secondary is gone

So a transfer of 100,000 names costs a list of their names, and queries are answered between its messages.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.rdatatype

from jitsu_dns.rules.message import NO_EXTRAS, NO_RECORDS, Rcode, Records, Type, respond

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jitsu_dns.rules.message import Extras, Query

MESSAGE_BYTES = 16 * 1024
"""Offsets of names must be below that for pointers (RFC 1035, 4.1.4); some milliseconds of work."""
POINTER_TO_ZONE = b"\xc0\x0c"
"""The question's name is the zone."""
MAX_TRANSFERS = 16
"""Under way at once."""


class Transfer:
    """One zone on its way to one secondary."""

    def __init__(self, zone: bytes, apex: Sequence[bytes], soa: bytes, names: Mapping[bytes, object]) -> None:
        """`apex` are the records, with their owners, that belong to no name of the table; `names` are the table's."""
        self.zone = zone
        self._apex, self._soa = apex, soa
        self._left: dict[bytes, Sequence[bytes] | None] = dict.fromkeys(names)

    def wants(self, key: bytes) -> bool:
        """Say whether what a name has now will be sent later."""
        return self._left.get(key, NO_RECORDS) is None and _is_in(key, self.zone)

    def keep(self, key: bytes, records: Sequence[bytes]) -> None:
        """Keep what a name has, each owner a pointer to the question, as it is about to change."""
        self._left[key] = records

    def records(self, now_has: Callable[[bytes], Sequence[bytes]]) -> Iterator[bytes]:
        """Yield each record with its owner; `now_has` returns those of a name that did not change."""
        yield self._soa
        yield from self._apex
        while self._left:
            key, kept = self._left.popitem()
            if _is_in(key, self.zone):
                owner = key[: -len(self.zone)] + POINTER_TO_ZONE
                for record in now_has(key) if kept is None else kept:
                    yield owner + record[len(POINTER_TO_ZONE) :]
        yield self._soa


def messages(query: Query, records: Iterator[bytes], extras: Extras = NO_EXTRAS) -> Iterator[bytes]:
    """Yield the messages of a transfer, the question in each."""
    packed, count = bytearray(), 0
    for record in records:
        if count and len(packed) + len(record) > MESSAGE_BYTES:
            yield respond(query, Rcode.NOERROR, Records(bytes(packed), count), udp=False, extras=extras)
            packed, count = bytearray(), 0
        packed += record
        count += 1
    yield respond(query, Rcode.NOERROR, Records(bytes(packed), count), udp=False, extras=extras)


def serial_in(data: bytes) -> int | None:
    """Return the serial that the sender of an IXFR query has (RFC 1995, 3), None if it does not say."""
    try:
        message = dns.message.from_wire(data)
        for rrset in message.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                return int(rrset[0].serial)
    except (dns.exception.DNSException, ValueError):
        return None
    return None


def is_older(serial: int | None, than: int) -> bool:
    """Compare serials, which go round (RFC 1982); one that is not known is older."""
    return serial is None or 0 < (than - serial) % 2**32 < 2**31


def notify_message(id: int, zone: bytes, soa: bytes) -> bytes:
    """Return a NOTIFY (RFC 1996, 3.7) with the zone's new SOA as a hint."""
    question = zone + struct.pack("!HH", Type.SOA, 1)
    return struct.pack("!HHHHHH", id, 0x2400, 1, 1, 0, 0) + question + soa


def _is_in(key: bytes, zone: bytes) -> bool:
    """Say whether a name on the wire is in a zone: the zone's name begins where a label of it does."""
    if not key.endswith(zone):
        return False
    at, start = 0, len(key) - len(zone)
    while at < start:
        at += key[at] + 1
    return at == start
