"""DNS messages as bytes (RFC 1035, section 4; RFC 6891): a query taken apart, a response put together.

The common query never meets a library: what is needed of it is in fixed places. Records are built by dnslib
when the zone changes (records.py), and are bytes here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER_BYTES = 12
MAX_NAME_BYTES = 255  # RFC 1035, 2.3.4
MIN_UDP_BYTES = 512  # RFC 1035, 2.3.4: what every client takes
MAX_UDP_BYTES = 1232  # DNS flag day 2020: fits an IPv6 minimum MTU unfragmented
MAX_EXTRA_TEXT_BYTES = 200

_HEADER = struct.Struct("!HHHHHH")
_TYPE_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")

QR, AA, TC, RD = 0x8000, 0x0400, 0x0200, 0x0100
OPCODE = 0x7800
IN = 1


class Type(IntEnum):
    """Record types that are treated in their own way here."""

    A = 1
    SOA = 6
    HINFO = 13
    AAAA = 28
    OPT = 41
    ANY = 255


class Rcode(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Ede(IntEnum):
    """Extended errors (RFC 8914, section 4)."""

    OTHER = 0
    CACHED_ERROR = 13
    NOT_READY = 14
    NETWORK_ERROR = 23


@dataclass(frozen=True, slots=True)
class Edns:
    """What the query's OPT record says."""

    udp_bytes: int
    version: int


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query with one question."""

    id: int
    flags: int
    question: bytes
    """Name, type and class as they came: the case of the name is given back (0x20)."""
    key: bytes
    """The name on the wire, in lower case."""
    qtype: int
    qclass: int
    edns: Edns | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """Not answered in the ordinary way; `reply` is what is sent, nothing if None."""

    reply: bytes | None


@dataclass(frozen=True, slots=True)
class Records:
    """Records for a response, ready-made, each owner a pointer to the question or a full name."""

    answer: bytes = b""
    answers: int = 0
    authority: bytes = b""
    authorities: int = 0


NO_RECORDS = Records()


def parse(data: bytes) -> Query | Malformed:
    """Take a query apart."""
    if len(data) < HEADER_BYTES:
        return Malformed(None)
    id, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & QR:
        return Malformed(None)  # a response: answering it would make a loop
    if flags & OPCODE:
        return Malformed(_bare(id, flags, Rcode.NOTIMP))
    if questions != 1:
        return Malformed(_bare(id, flags, Rcode.FORMERR))
    end = _name_end(data, HEADER_BYTES, pointers=False)
    if end is None or end + 4 > len(data):
        return Malformed(_bare(id, flags, Rcode.FORMERR))
    qtype, qclass = _TYPE_CLASS.unpack_from(data, end)
    edns = None
    if answers or authorities or additionals:
        found = _find_opt(data, end + 4, answers + authorities, additionals)
        if isinstance(found, bool):
            if not found:
                return Malformed(_bare(id, flags, Rcode.FORMERR))
        else:
            edns = found
    # Lower-casing the length bytes too does no harm: they are below 64, and "A" is 65.
    return Query(id, flags, data[HEADER_BYTES : end + 4], data[HEADER_BYTES:end].lower(), qtype, qclass, edns)


def respond(
    query: Query,
    rcode: Rcode,
    records: Records = NO_RECORDS,
    *,
    authoritative: bool = True,
    udp: bool = True,
    ede: tuple[Ede, str] | None = None,
) -> bytes:
    """Return the response; over UDP one that is too large is truncated to its question (TC)."""
    flags = QR | (query.flags & RD) | (AA if authoritative else 0) | (rcode & 0xF)
    opt = b"" if query.edns is None else _opt(rcode, ede)
    additionals = 1 if opt else 0
    size = HEADER_BYTES + len(query.question) + len(records.answer) + len(records.authority) + len(opt)
    if udp and size > udp_limit(query):
        header = _HEADER.pack(query.id, flags | TC, 1, 0, 0, additionals)
        return header + query.question + opt
    header = _HEADER.pack(query.id, flags, 1, records.answers, records.authorities, additionals)
    return header + query.question + records.answer + records.authority + opt


def udp_limit(query: Query) -> int:
    """Return how large a response over UDP may be."""
    if query.edns is None:
        return MIN_UDP_BYTES
    return max(MIN_UDP_BYTES, min(query.edns.udp_bytes, MAX_UDP_BYTES))


def to_wire(name: str) -> bytes:
    """Return a checked host name as it stands on the wire."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def parents(key: bytes) -> list[bytes]:
    """Return a name on the wire and its parents, without the root, the name itself first."""
    found = []
    while len(key) > 1:
        found.append(key)
        key = key[key[0] + 1 :]
    return found


def _opt(rcode: Rcode, ede: tuple[Ede, str] | None) -> bytes:
    option = b""
    if ede is not None:
        text = ede[1].encode()[:MAX_EXTRA_TEXT_BYTES].decode("utf-8", "ignore").encode()
        option = struct.pack("!HHH", 15, 2 + len(text), ede[0]) + text  # RFC 8914, section 2
    return b"\0" + _RECORD.pack(Type.OPT, MAX_UDP_BYTES, (rcode >> 4) << 24, len(option)) + option


def _bare(id: int, flags: int, rcode: Rcode) -> bytes:
    """Return a response without a question: the query's could not be read."""
    return _HEADER.pack(id, QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def _name_end(data: bytes, at: int, *, pointers: bool) -> int | None:
    """Return where the name at an offset ends, None if it is malformed."""
    start = at
    while at < len(data):
        length = data[at]
        if length == 0:
            return at + 1 if at + 1 - start <= MAX_NAME_BYTES else None
        if length >= 0xC0:
            return at + 2 if pointers and at + 2 <= len(data) else None
        if length > 63 or at - start > MAX_NAME_BYTES:
            return None
        at += length + 1
    return None


def _find_opt(data: bytes, at: int, before: int, additionals: int) -> Edns | bool:
    """Return the OPT record among the additional ones; True if there is none, False if malformed."""
    edns: Edns | None = None
    for index in range(before + additionals):
        root = data[at : at + 1] == b"\0"
        end = _name_end(data, at, pointers=True)
        if end is None or end + _RECORD.size > len(data):
            return False
        rtype, rclass, ttl, length = _RECORD.unpack_from(data, end)
        at = end + _RECORD.size + length
        if at > len(data):
            return False
        if rtype == Type.OPT:
            if edns is not None or not root or index < before:
                return False  # RFC 6891, 6.1.1: one, owned by the root, among the additional records
            edns = Edns(rclass, (ttl >> 16) & 0xFF)
    return True if edns is None else edns
