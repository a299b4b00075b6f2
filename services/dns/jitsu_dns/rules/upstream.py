"""Reads a response of another server, as far as is needed to forward it and to keep it.

Its records stay bytes. Their compression points into the question, which has the same length and place in our response.
Only the TTLs change, and the OPT record is removed, because it concerns only two servers (RFC 6891, section 6.1.1: one
at most, owned by the root, in the additional section). Additional records that follow it are left out as well: their
compression may point behind it, and nobody depends on them.

Every count, length and offset here comes from the network, so nothing is sliced or unpacked before it is compared with
what is there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

import dns.exception
import dns.message

from jitsu_dns.rules.message import (
    AD,
    CD,
    DO,
    HEADER_BYTES,
    MAX_TCP_BYTES,
    MAX_UDP_BYTES,
    NO_EXTRAS,
    QR,
    RA,
    RD,
    TC,
    Query,
    Rcode,
    Type,
    name_end,
    opt_record,
    udp_limit,
)

if TYPE_CHECKING:
    from jitsu_dns.rules.message import Extras, Records

MAX_TTL_S = 86400  # RFC 8767, 4 suggests days, not weeks
MAX_NEGATIVE_TTL_S = 3 * 3600  # RFC 2308, 5
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_BARE = frozenset({Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
"""Errors that may come without the question: the server may not have been able to read it."""


class Unfit(Enum):
    """Why a packet is not a usable response."""

    FORGED = auto()
    """It does not repeat what we sent, so anybody may have sent it."""
    OTHER_CASE = auto()
    """It repeats the question, but not the mixture of cases of its name."""
    MALFORMED = auto()
    """It repeats the question, but its records make no sense."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response of another server."""

    rcode: int
    """With the upper bits of the OPT record (RFC 6891, 6.1.3)."""
    counts: tuple[int, int, int]
    body: bytes
    """Everything after the question, without OPT."""
    ttls_at: tuple[int, ...]
    """Offsets of the TTLs in the body."""
    ttl: int
    """How long it may be kept, in seconds; 0 if not at all."""
    truncated: bool
    authentic: bool = False
    """The server has validated it (AD, RFC 4035, 3.2.3)."""

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return 300 + len(self.body) + 40 * len(self.ttls_at)

    def answer(self, query: Query, age_s: int, *, udp: bool, extras: Extras = NO_EXTRAS) -> bytes:
        """Return it as the answer to a query; `age_s` is for how long it has been kept."""
        flags = QR | RA | (query.flags & (RD | CD)) | (self.rcode & 0xF)
        if self.authentic and (query.flags & AD or (query.edns is not None and query.edns.do)):
            flags |= AD  # RFC 6840, 5.8
        opt = b"" if query.edns is None else opt_record(query.edns, Rcode.NOERROR, extras)
        answers, authorities, additionals = self.counts
        limit = udp_limit(query) if udp else MAX_TCP_BYTES
        if HEADER_BYTES + len(query.question) + len(self.body) + len(opt) > limit:
            return _HEADER.pack(query.id, flags | TC, 1, 0, 0, 1 if opt else 0) + query.question + opt
        header = _HEADER.pack(query.id, flags, 1, answers, authorities, additionals + (1 if opt else 0))
        return header + query.question + self._aged(age_s) + opt

    def behind(self, aliases: Records, query: Query, target: bytes, age_s: int) -> Response | None:
        """Return it behind the aliases that lead from a query's name to `target`; None if it cannot be read.

        It was asked for `target`, so its compression points into a question of another length: it is written again.
        """
        question = target + query.question[-4:]
        try:
            found = dns.message.from_wire(_HEADER.pack(0, QR, 1, *self.counts) + question + self._aged(age_s))
            before = dns.message.from_wire(
                _HEADER.pack(0, QR, 1, aliases.answers, 0, 0) + query.question + aliases.answer
            )
            before.answer += found.answer
            before.authority += found.authority
            wire = before.to_wire(max_size=MAX_TCP_BYTES)
        except (dns.exception.DNSException, ValueError):
            return None
        at = HEADER_BYTES + len(query.question)
        counts = _HEADER.unpack_from(wire)[3:]
        return replace(self, counts=(counts[0], counts[1], counts[2]), body=wire[at:], ttls_at=(), authentic=False)

    def _aged(self, age_s: int) -> bytes:
        body = bytearray(self.body)
        for at in self.ttls_at if age_s else ():
            body[at : at + 4] = max(0, int.from_bytes(body[at : at + 4], "big") - age_s).to_bytes(4, "big")
        return bytes(body)


def question_for(query: Query, id: int, name: bytes, *, edns: bool = True) -> bytes:
    """Return a query's question for another server; `name` has a mixture of upper and lower case (0x20).

    AD asks whether the server has validated the answer (RFC 6840, 5.7). CD is set if the client has set it.
    """
    flags = RD | AD | (query.flags & CD)
    do = DO if query.edns is not None and query.edns.do else 0
    opt = b"\0" + _RECORD.pack(Type.OPT, MAX_UDP_BYTES, do, 0) if edns else b""
    return _HEADER.pack(id, flags, 1, 0, 0, 1 if opt else 0) + name + query.question[len(query.key) :] + opt


def parse_response(data: bytes, asked: bytes) -> Response | Unfit:
    """Read the response to a packet that was sent."""
    if len(data) < HEADER_BYTES or data[:2] != asked[:2]:
        return Unfit.FORGED
    _, flags, questions, *counts = _HEADER.unpack_from(data)
    if not flags & QR or flags & 0x7800:
        return Unfit.FORGED
    rcode = flags & 0xF
    if questions == 0 and rcode in _BARE:
        return Response(rcode, (0, 0, 0), b"", (), 0, False)
    end = name_end(asked, HEADER_BYTES, pointers=False)
    assert end is not None  # we made it
    question = asked[HEADER_BYTES : end + 4]
    at = HEADER_BYTES + len(question)
    if questions != 1 or data[HEADER_BYTES:at].lower() != question.lower():
        return Unfit.FORGED
    if data[HEADER_BYTES:at] != question:
        return Unfit.OTHER_CASE
    return _records(data, at, flags, counts, int.from_bytes(question[-4:-2], "big"))


def _records(data: bytes, at: int, flags: int, counts: list[int], qtype: int) -> Response | Unfit:
    """Read what follows the question."""
    answers, authorities, additionals = counts
    rcode = flags & 0xF
    begin, ttls_at, ttls, types, negative = at, [], [], set(), None
    for number in range(answers + authorities + additionals):
        end = name_end(data, at, pointers=True)
        if end is None or end + _RECORD.size > len(data):
            return Unfit.MALFORMED
        rtype, _, ttl, length = _RECORD.unpack_from(data, end)
        after = end + _RECORD.size + length
        if after > len(data):
            return Unfit.MALFORMED
        if rtype == Type.OPT:
            if number < answers + authorities or end != at + 1:
                return Unfit.MALFORMED
            rcode |= ttl >> 24 << 4
            additionals = number - answers - authorities
            break
        ttls_at.append(end + 4 - begin)
        ttls.append(ttl if ttl < 2**31 else 0)  # RFC 2181, 8
        if number < answers:
            types.add(rtype)
        elif rtype == Type.SOA and number < answers + authorities and length >= 20:
            negative = min(ttls[-1], int.from_bytes(data[after - 4 : after], "big"))
        at = after
    is_found = qtype in types or (qtype == Type.ANY and answers > 0)
    ttl = _lifetime(rcode, is_found, ttls, answers, negative)
    is_truncated, is_authentic = bool(flags & TC), bool(flags & AD)
    return Response(
        rcode, (answers, authorities, additionals), data[begin:at], tuple(ttls_at), ttl, is_truncated, is_authentic
    )


def _lifetime(rcode: int, is_found: bool, ttls: list[int], answers: int, negative: int | None) -> int:
    """Return how long a response may be kept (RFC 2308, 5; RFC 2181, 5.2).

    A denial may follow aliases, and is not kept for longer than their TTLs allow.
    """
    if rcode == Rcode.NOERROR and is_found:
        return min([*ttls, MAX_TTL_S])
    if rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN) or negative is None:
        return 0
    return min([*ttls[:answers], negative, MAX_NEGATIVE_TTL_S])
