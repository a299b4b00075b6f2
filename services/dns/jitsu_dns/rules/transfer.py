"""Gives whole zones to secondaries (AXFR, RFC 5936; IXFR, RFC 1995).

the client is not in dns.secondaries                     REFUSED
not all names are known yet                              SERVFAIL: half a zone would deny the other half
the zone is not ours                                     NOTAUTH
IXFR over UDP, or the secondary has this serial          the SOA record; the rest is asked for over TCP
AXFR over UDP                                            FORMERR (RFC 5936, 4.2)
too many transfers are under way                         SERVFAIL
else                                                     the whole zone, also for IXFR, as RFC 1995, 4 allows
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import dnslib

from jitsu_dns.rules.events import Reply, SendZone
from jitsu_dns.rules.message import NO_EXTRAS, Ede, Rcode, Records, Type, respond

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.message import Extras, Query
    from jitsu_dns.rules.responder import Responder
    from jitsu_dns.rules.table import Table

MESSAGE_BYTES = 16 * 1024
"""Offsets of names must be below this for pointers (RFC 1035, 4.1.4); it is some milliseconds of work."""
TYPES = frozenset({Type.AXFR, Type.IXFR})


class Transfers:
    """Answers requests for whole zones."""

    def __init__(self, table: Table, secondaries: Collection[bytes], responder: Responder) -> None:
        """`secondaries` are the addresses of those who may have zones."""
        self._table, self._secondaries, self._responder = table, secondaries, responder

    def answer(self, exchange: Exchange, *, is_complete: bool) -> Reply | SendZone:
        """Answer AXFR or IXFR; `is_complete` says whether the table has all names."""
        query, client = exchange.query, exchange.client
        soa = self._table.soa_of(query.key)
        if client.address not in self._secondaries:
            return self._error(exchange, Rcode.REFUSED, (Ede.PROHIBITED, "not one of dns.secondaries"))
        if not is_complete:
            return self._error(exchange, Rcode.SERVFAIL, (Ede.NOT_READY, "not all names are known yet"))
        if soa is None:
            return self._error(exchange, Rcode.NOTAUTH)
        if query.qtype == Type.IXFR and (client.udp or not is_older(serial_in(exchange.data), self._table.serial)):
            return self._responder.respond(exchange, Rcode.NOERROR, "fixed", Records(soa, 1), authoritative=True)
        if client.udp:
            return self._error(exchange, Rcode.FORMERR)
        records = self._table.transfer(query.key)
        if records is None:
            return self._error(exchange, Rcode.SERVFAIL, (Ede.OTHER, "too many transfers are under way"))
        self._responder.counts.answers[query.qtype, Rcode.NOERROR, "fixed"] += 1
        return SendZone(client.id, messages(query, records, exchange.options))

    def _error(self, exchange: Exchange, rcode: Rcode, error: tuple[Ede, str] | None = None) -> Reply:
        return self._responder.respond(exchange, rcode, "other", error=error)


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
        found = dnslib.DNSRecord.parse(data).auth
    except (dnslib.DNSError, ValueError):
        return None
    return next((int(record.rdata.times[0]) for record in found if record.rtype == Type.SOA), None)


def is_older(serial: int | None, than: int) -> bool:
    """Compare serials, which go round (RFC 1982); one that is not known is older."""
    return serial is None or 0 < (than - serial) % 2**32 < 2**31


def notify_message(id: int, zone: bytes, soa: bytes) -> bytes:
    """Return a NOTIFY (RFC 1996, 3.7) with the zone's new SOA as a hint."""
    question = zone + struct.pack("!HH", Type.SOA, 1)
    return struct.pack("!HHHHHH", id, 0x2400, 1, 1, 0, 0) + question + soa
