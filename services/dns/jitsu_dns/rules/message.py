"""DNS messages as bytes (RFC 1035, section 4; RFC 6891): reads queries and makes responses.

These packets are not answered in the ordinary way:

    shorter than a header, or a response (QR)      nothing: an answer could begin a loop
    any opcode but QUERY                           NOTIMP
    QDCOUNT 0 with a cookie                        NOERROR and the server's cookie (RFC 7873, 5.4)
    QDCOUNT other than 1                           FORMERR (RFC 9619)
    a name, record or option that is cut short,
    two OPT records, bytes behind the last record  FORMERR

No library reads the common query: what is needed of it is in fixed places. Records are packed when the zone changes
(records.py), and are only bytes here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER_BYTES = 12
MAX_NAME_BYTES = 255  # RFC 1035, 2.3.4
MAX_TCP_BYTES = 65535
MIN_UDP_BYTES = 512  # RFC 1035, 2.3.4: what every client accepts
MAX_UDP_BYTES = 1232  # DNS flag day 2020: fits an IPv6 minimum MTU unfragmented
MAX_EXTRA_TEXT_BYTES = 200
COOKIE_BYTES = (8, *range(16, 41))  # RFC 7873, 4: the client's half, and the server's if it has one

_HEADER = struct.Struct("!HHHHHH")
_TYPE_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")

QR, AA, TC, RD = 0x8000, 0x0400, 0x0200, 0x0100
RA, AD, CD = 0x0080, 0x0020, 0x0010
OPCODE = 0x7800
DO = 0x8000  # of the OPT record's flags (RFC 3225)
IN, CHAOS = 1, 3


class Type(IntEnum):
    """Record types that the code treats in a special way."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    TXT = 16
    AAAA = 28
    DNAME = 39
    OPT = 41
    DS = 43
    RRSIG = 46
    NSEC = 47
    IXFR = 251
    AXFR = 252
    ANY = 255


TYPE_NAMES: dict[int, str] = {each.value: each.name for each in Type} | {
    15: "MX",
    33: "SRV",
    48: "DNSKEY",
    64: "SVCB",
    65: "HTTPS",
    257: "CAA",
}
"""Types that are counted by name."""


class Option(IntEnum):
    """EDNS options that this server understands."""

    NSID = 3  # RFC 5001
    COOKIE = 10  # RFC 7873
    KEEPALIVE = 11  # RFC 7828
    EDE = 15  # RFC 8914


class Rcode(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    NOTAUTH = 9
    BADVERS = 16


class Ede(IntEnum):
    """Extended errors (RFC 8914, section 4)."""

    OTHER = 0
    CACHED_ERROR = 13
    NOT_READY = 14
    PROHIBITED = 18
    NOT_AUTHORITATIVE = 20
    NETWORK_ERROR = 23


@dataclass(frozen=True, slots=True)
class Edns:
    """What the query's OPT record says."""

    udp_bytes: int
    version: int
    do: bool = False
    cookie: bytes | None = None
    """The client's half, and the server's if it has one; b"" if it has an impossible length."""
    wants_nsid: bool = False
    wants_keepalive: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query with one question."""

    id: int
    flags: int
    question: bytes
    """Name, type and class as they came: a response repeats the case of the name (0x20)."""
    key: bytes
    """The name on the wire, in lower case."""
    qtype: int
    qclass: int
    edns: Edns | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A packet that is not answered in the ordinary way; `reply` is what is sent, nothing if it is None."""

    reply: bytes | None
    cookie: bytes | None = None
    """It asks for the server's cookie and nothing else: `cookie_reply` makes the answer."""


@dataclass(frozen=True, slots=True)
class Records:
    """Packed records for a response; each owner is a pointer to the question, or a full name."""

    answer: bytes = b""
    answers: int = 0
    authority: bytes = b""
    authorities: int = 0
    additional: bytes = b""
    additionals: int = 0
    """Left out if the response has no room for them."""


NO_RECORDS = Records()


def parse(data: bytes) -> Query | Malformed:
    """Read a query."""
    if len(data) < HEADER_BYTES:
        return Malformed(None)
    id, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & QR:
        return Malformed(None)
    if flags & OPCODE:
        return Malformed(_bare(id, flags, Rcode.NOTIMP))
    if questions > 1:
        return Malformed(_bare(id, flags, Rcode.FORMERR))
    end = HEADER_BYTES - 4 if questions == 0 else name_end(data, HEADER_BYTES, pointers=False)
    if end is None or end + 4 > len(data):
        return Malformed(_bare(id, flags, Rcode.FORMERR))
    edns: Edns | None = None
    if answers or authorities or additionals:
        found = _find_opt(data, end + 4, answers + authorities, additionals)
        if found is False:
            return Malformed(_bare(id, flags, Rcode.FORMERR))
        edns = None if found is True else found
    elif end + 4 != len(data):
        return Malformed(_bare(id, flags, Rcode.FORMERR))
    if edns is not None and edns.cookie == b"":
        return Malformed(_bare(id, flags, Rcode.FORMERR))  # RFC 7873, 5.2.2
    if questions == 0:
        cookie = None if edns is None else edns.cookie
        return Malformed(_bare(id, flags, Rcode.FORMERR), cookie)
    qtype, qclass = _TYPE_CLASS.unpack_from(data, end)
    # Lower-casing the length bytes too does no harm: they are below 64, and "A" is 65.
    return Query(id, flags, data[HEADER_BYTES : end + 4], data[HEADER_BYTES:end].lower(), qtype, qclass, edns)


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes into a response's OPT record."""

    ede: tuple[Ede, str] | None = None
    cookie: bytes = b""
    nsid: bytes = b""
    keepalive: int | None = None
    """How long an idle TCP connection is kept, in 0.1 s."""


NO_EXTRAS = Extras()


def respond(
    query: Query,
    rcode: Rcode,
    records: Records = NO_RECORDS,
    *,
    authoritative: bool = True,
    udp: bool = True,
    extras: Extras = NO_EXTRAS,
) -> bytes:
    """Return the response. Over UDP, one that is too large is truncated to its question (TC)."""
    flags = QR | (query.flags & RD) | (AA if authoritative else 0) | (rcode & 0xF)
    opt = b"" if query.edns is None else opt_record(query.edns, rcode, extras)
    opts = 1 if opt else 0
    body = query.question + records.answer + records.authority
    size = HEADER_BYTES + len(body) + len(opt)
    limit = udp_limit(query) if udp else MAX_TCP_BYTES
    if size > limit:
        return truncated(query, rcode, authoritative=authoritative, extras=extras)
    if records.additionals and size + len(records.additional) <= limit:
        opts += records.additionals
        opt = records.additional + opt
    return _HEADER.pack(query.id, flags, 1, records.answers, records.authorities, opts) + body + opt


def truncated(
    query: Query, rcode: Rcode = Rcode.NOERROR, *, authoritative: bool = True, extras: Extras = NO_EXTRAS
) -> bytes:
    """Return a response without records that sends the client to TCP."""
    flags = QR | TC | (query.flags & RD) | (AA if authoritative else 0) | (rcode & 0xF)
    opt = b"" if query.edns is None else opt_record(query.edns, rcode, extras)
    return _HEADER.pack(query.id, flags, 1, 0, 0, 1 if opt else 0) + query.question + opt


def cookie_reply(data: bytes, cookie: bytes) -> bytes:
    """Return the answer to a query that asks for nothing but the server's cookie (RFC 7873, 5.4)."""
    id, flags = struct.unpack_from("!HH", data)
    opt = opt_record(Edns(MAX_UDP_BYTES, 0), Rcode.NOERROR, Extras(cookie=cookie))
    return _HEADER.pack(id, QR | (flags & RD), 0, 0, 0, 1) + opt


def udp_limit(query: Query) -> int:
    """Return how large a response over UDP may be."""
    if query.edns is None:
        return MIN_UDP_BYTES
    return max(MIN_UDP_BYTES, min(query.edns.udp_bytes, MAX_UDP_BYTES))


def to_wire(name: str) -> bytes:
    """Return a host name, which has been checked, in wire format."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def parents(key: bytes) -> list[bytes]:
    """Return a name in wire format and its parents without the root; the name itself comes first."""
    found = []
    while len(key) > 1:
        found.append(key)
        key = key[key[0] + 1 :]
    return found


def opt_record(edns: Edns, rcode: Rcode, extras: Extras) -> bytes:
    """Return the OPT record of a response to a query that had one."""
    options = b""
    if extras.cookie:
        options += struct.pack("!HH", Option.COOKIE, len(extras.cookie)) + extras.cookie
    if extras.nsid:
        options += struct.pack("!HH", Option.NSID, len(extras.nsid)) + extras.nsid
    if extras.keepalive is not None:
        options += struct.pack("!HHH", Option.KEEPALIVE, 2, extras.keepalive)
    if extras.ede is not None:
        code, text = extras.ede
        cut = text.encode()[:MAX_EXTRA_TEXT_BYTES].decode("utf-8", "ignore").encode()
        options += struct.pack("!HHH", Option.EDE, 2 + len(cut), code) + cut  # RFC 8914, section 2
    flags = (rcode >> 4) << 24 | (DO if edns.do else 0)
    return b"\0" + _RECORD.pack(Type.OPT, MAX_UDP_BYTES, flags, len(options)) + options


def _bare(id: int, flags: int, rcode: Rcode) -> bytes:
    """Return a response without a question, because that of the query could not be read."""
    return _HEADER.pack(id, QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def name_end(data: bytes, at: int, *, pointers: bool) -> int | None:
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
        end = name_end(data, at, pointers=True)
        if end is None or end + _RECORD.size > len(data):
            return False
        rtype, rclass, ttl, length = _RECORD.unpack_from(data, end)
        at = end + _RECORD.size + length
        if at > len(data):
            return False
        if rtype == Type.OPT:
            if edns is not None or not root or index < before:
                return False  # RFC 6891, 6.1.1: one, owned by the root, among the additional records
            edns = _edns(rclass, ttl, data[at - length : at])
            if edns is None:
                return False
    if at != len(data):
        return False
    return True if edns is None else edns


def _edns(rclass: int, ttl: int, options: bytes) -> Edns | None:
    """Read an OPT record; None if its options are cut short."""
    version, do = (ttl >> 16) & 0xFF, bool(ttl & DO)
    if not options:
        return Edns(rclass, version, do)
    cookie, nsid, keepalive, at = None, False, False, 0
    while at < len(options):
        if at + 4 > len(options):
            return None
        code, length = _TYPE_CLASS.unpack_from(options, at)
        at += 4 + length
        if at > len(options):
            return None
        if code == Option.COOKIE and cookie is None:
            cookie = options[at - length : at] if length in COOKIE_BYTES else b""
        elif code == Option.NSID:
            nsid = True
        elif code == Option.KEEPALIVE:
            keepalive = True
    return Edns(rclass, version, do, cookie, nsid, keepalive)
