"""A response of another server, taken apart as far as it must be to be given on and to be kept.

Its records stay bytes: their compression points into the question, which is as long for us as for the other server,
and stands in the same place. Only TTLs are changed, and the OPT record, which is between two servers, is taken off.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from jitsu_dns.rules.message import (
    DO,
    HEADER_BYTES,
    MAX_UDP_BYTES,
    NO_EXTRAS,
    QR,
    RD,
    TC,
    Query,
    Rcode,
    Type,
    name_end,
    opt_record,
    udp_limit,
)

RA = 0x0080
MAX_TTL_S = 86400  # RFC 8767, 4: no server should keep for weeks what another said
MAX_NEGATIVE_TTL_S = 3 * 3600  # RFC 2308, 5
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")


@dataclass(frozen=True, slots=True)
class Response:
    """What another server said."""

    rcode: int
    counts: tuple[int, int, int]
    body: bytes
    """All behind the question, without OPT."""
    ttls_at: tuple[int, ...]
    """Where TTLs stand in the body."""
    ttl: int
    """How long it may be kept, in seconds; 0: not at all."""
    truncated: bool

    def answer(self, query: Query, age_s: int, *, udp: bool) -> bytes:
        """Return it as the answer to a query; `age_s` is how long it was kept."""
        flags = QR | RA | (query.flags & RD) | (self.rcode & 0xF)
        opt = b"" if query.edns is None else opt_record(query.edns, Rcode.NOERROR, NO_EXTRAS)
        answers, authorities, additionals = self.counts
        if udp and HEADER_BYTES + len(query.question) + len(self.body) + len(opt) > udp_limit(query):
            return _HEADER.pack(query.id, flags | TC, 1, 0, 0, 1 if opt else 0) + query.question + opt
        body = bytearray(self.body)
        for at in self.ttls_at if age_s else ():
            body[at : at + 4] = max(0, int.from_bytes(body[at : at + 4], "big") - age_s).to_bytes(4, "big")
        header = _HEADER.pack(query.id, flags, 1, answers, authorities, additionals + (1 if opt else 0))
        return header + query.question + bytes(body) + opt


def question_for(query: Query, id: int, mixed: bytes) -> bytes:
    """Return a query's question for another server, its name with that mixture of cases (0x20)."""
    flags = DO if query.edns is not None and query.edns.do else 0
    opt = b"\0" + _RECORD.pack(Type.OPT, MAX_UDP_BYTES, flags, 0)
    return _HEADER.pack(id, RD, 1, 0, 0, 1) + mixed + query.question[len(query.key) :] + opt


def parse_response(data: bytes, asked: bytes) -> Response | None:
    """Take apart the response to a packet that was sent; None if it is none, or malformed."""
    if len(data) < HEADER_BYTES or data[:2] != asked[:2]:
        return None
    _, flags, questions, *counts = _HEADER.unpack_from(data)
    end = name_end(asked, HEADER_BYTES, pointers=False)
    assert end is not None  # we have made it
    question = asked[HEADER_BYTES : end + 4]
    at = HEADER_BYTES + len(question)
    if not flags & QR or flags & 0x7800 or questions != 1 or data[HEADER_BYTES:at] != question:
        return None  # also if the case is another: somebody has guessed
    begin, ttls_at, ttls, negative = at, [], [], None
    for number in range(sum(counts)):
        end = name_end(data, at, pointers=True)
        if end is None or end + _RECORD.size > len(data):
            return None
        rtype, _, ttl, length = _RECORD.unpack_from(data, end)
        after = end + _RECORD.size + length
        if after > len(data):
            return None
        if rtype == Type.OPT:
            if number != sum(counts) - 1:
                return None  # nothing points behind it, if it is the last
            counts[2] -= 1
            break
        ttls_at.append(end + 4 - begin)
        ttls.append(ttl if ttl < 2**31 else 0)  # RFC 2181, 8
        if rtype == Type.SOA and counts[0] <= number < counts[0] + counts[1] and length >= 20:
            negative = min(ttls[-1], int.from_bytes(data[after - 4 : after], "big"))
        at = after
    rcode = flags & 0xF
    return Response(
        rcode, (counts[0], counts[1], counts[2]), data[begin:at], tuple(ttls_at),
        _lifetime(rcode, counts[0], ttls, negative), bool(flags & TC),
    )  # fmt: skip


def _lifetime(rcode: int, answers: int, ttls: list[int], negative: int | None) -> int:
    """Return how long a response may be kept (RFC 2308, 5; RFC 2181, 5.2)."""
    if rcode == Rcode.NXDOMAIN or (rcode == Rcode.NOERROR and not answers):
        return 0 if negative is None else min(negative, MAX_NEGATIVE_TTL_S)
    if rcode != Rcode.NOERROR:
        return 0
    return min([*ttls, MAX_TTL_S])
