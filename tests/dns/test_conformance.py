"""What the standards ask of a server, sent as bytes and checked as bytes; each row names its RFC."""

from __future__ import annotations

import struct

import pytest

from jitsu_dns.rules.exchange import Client
from jitsu_protocol.model.states import VmState
from tests.support.front import ADDRESS, CLIENT, front, state

ID = b"\x12\x34"
WWW = b"\3www\5jitsu\4test\0"
NOBODY = b"\6nobody\5jitsu\4test\0"
A, AAAA, TXT, ANY, AXFR = (number.to_bytes(2, "big") for number in (1, 28, 16, 255, 252))
IN, CH = b"\0\1", b"\0\3"
NO_RECORDS = bytes(6)
SOA_HEAD = b"\5jitsu\4test\0\0\6\0\1\0\0\0\x0a"
FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5


def header(flags: int, questions: int = 1, answers: int = 0, authorities: int = 0, additionals: int = 0) -> bytes:
    return ID + struct.pack("!HHHHH", flags, questions, answers, authorities, additionals)


def opt(payload: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"", high: int = 0) -> bytes:
    return b"\0\0\x29" + struct.pack("!HBBHH", payload, high, version, flags, len(options)) + options


def exchange(packet: bytes, *, udp: bool = True, ready: bool = True) -> bytes | None:
    made = front(static=[f"big.jitsu.test. 60 IN TXT {'x' * 250} {'y' * 250} {'z' * 250}"])
    if ready:
        state(made, VmState.READY)
    return made.query(packet, Client(CLIENT, ADDRESS, udp), 1.0)


MIXED = b"\3wWw\5JITSU\4test\0"
BIG = b"\3big\5jitsu\4test\0" + TXT + IN
TOO_LONG = (b"\x3f" + b"a" * 63) * 4 + b"\0"
MALFORMED = header(0x8000 | FORMERR, questions=0)
QUESTION = WWW + A + IN
ANSWER = b"\xc0\x0c" + A + IN + b"\0\0\0\x0a\0\4\x7f\0\1\1"


@pytest.mark.parametrize(
    ("rfc", "packet", "reply"),
    [
        (
            "1035 4.1.1: RD is given back, RA is not set",
            header(0x0100) + QUESTION,
            header(0x8500, answers=1) + QUESTION + ANSWER,
        ),
        ("1035 4.1.1: AA is set", header(0) + QUESTION, header(0x8400, answers=1) + QUESTION + ANSWER),
        (
            "1035 4.1.1: TC, RA, Z, AD and CD of a query are not given back",
            header(0x02F0) + QUESTION,
            header(0x8400, answers=1) + QUESTION + ANSWER,
        ),
        (
            "4343: names are compared without case, and given back with it",
            header(0) + MIXED + A + IN,
            header(0x8400, answers=1) + MIXED + A + IN + ANSWER,
        ),
        ("1035 4.1.1: NOTIMP for another opcode", header(0x1000) + QUESTION, header(0x9000 | NOTIMP, questions=0)),
        ("1035 4.1.1: NOTIMP for an update", header(0x2800) + QUESTION, header(0xA800 | NOTIMP, questions=0)),
        ("1035 4.1.1: a response is not answered", header(0x8000) + QUESTION, None),
        ("1035 4.1.1: what is shorter than a header is not answered", header(0)[:11], None),
        ("9619: FORMERR for two questions", header(0, questions=2) + QUESTION * 2, MALFORMED),
        ("1035 4.1.2: FORMERR for no question", header(0, questions=0), MALFORMED),
        ("1035 4.1.2: FORMERR for half a question", header(0) + WWW + A, MALFORMED),
        ("1035 4.1.4: FORMERR for a pointer in a question", header(0) + b"\xc0\x0c" + A + IN, MALFORMED),
        ("1035 2.3.4: FORMERR for a name over 255 bytes", header(0) + TOO_LONG + A + IN, MALFORMED),
        ("6891 6.1.1: FORMERR for two OPT records", header(0, additionals=2) + QUESTION + opt() * 2, MALFORMED),
        (
            "6891 6.1.1: an OPT record is answered with one",
            header(0, additionals=1) + QUESTION + opt(),
            header(0x8400, answers=1, additionals=1) + QUESTION + ANSWER + opt(),
        ),
        (
            "6891 6.1.3: BADVERS for another version",
            header(0, additionals=1) + QUESTION + opt(version=1),
            header(0x8000, additionals=1) + QUESTION + opt(high=1),
        ),
        (
            "6891 6.1.2: unknown options are passed over",
            header(0, additionals=1) + QUESTION + opt(options=b"\xff\xf0\0\2ab"),
            header(0x8400, answers=1, additionals=1) + QUESTION + ANSWER + opt(),
        ),
        (
            "6891 6.1.2: FORMERR for half an option",
            header(0, additionals=1) + QUESTION + opt(options=b"\0\x0a\0"),
            MALFORMED,
        ),
        (
            "3225: DO is given back",
            header(0, additionals=1) + QUESTION + opt(flags=0x8000),
            header(0x8400, answers=1, additionals=1) + QUESTION + ANSWER + opt(flags=0x8000),
        ),
        (
            "7873 5.2.2: FORMERR for a cookie of an impossible length",
            header(0, additionals=1) + QUESTION + opt(options=b"\0\x0a\0\4abcd"),
            MALFORMED,
        ),
        (
            "5936 2.2: AXFR is refused",
            header(0) + b"\5jitsu\4test\0" + AXFR + IN,
            header(0x8000 | REFUSED) + b"\5jitsu\4test\0" + AXFR + IN,
        ),
        ("1035 3.2.4: other classes are refused", header(0) + WWW + A + CH, header(0x8000 | REFUSED) + WWW + A + CH),
        (
            "1034 4.3.1: what is not held is refused",
            header(0) + b"\7example\3org\0" + A + IN,
            header(0x8000 | REFUSED) + b"\7example\3org\0" + A + IN,
        ),
        (
            "8482 4.2: ANY is answered with HINFO",
            header(0) + WWW + ANY + IN,
            header(0x8400, answers=1) + WWW + ANY + IN + b"\xc0\x0c\0\x0d\0\1\0\0\0\x0a\0\x09\7RFC8482\0",
        ),
        ("1035 4.2.1, 2181 9: TC if it does not fit into 512 bytes", header(0) + BIG, header(0x8600) + BIG),
        (
            "6891 6.2.5: nor into what the client takes, and never less than 512",
            header(0, additionals=1) + BIG + opt(payload=100),
            header(0x8600, additionals=1) + BIG + opt(),
        ),
    ],
)
def test_a_packet_is_answered_as_the_rfc_says(rfc: str, packet: bytes, reply: bytes | None) -> None:
    assert exchange(packet) == reply, rfc


@pytest.mark.parametrize(
    ("rfc", "name", "qtype", "rcode"),
    [
        ("2308 2.1: NXDOMAIN with the SOA", NOBODY, A, NXDOMAIN),
        ("2308 2.2: NODATA with the SOA", WWW, AAAA, 0),
        ("8020: a name above one that exists is there", b"\5jitsu\4test\0", TXT, 0),
        ("8020: nothing is below a name that does not exist", b"\1x" + NOBODY, A, NXDOMAIN),
    ],
)
def test_what_is_not_there_comes_with_the_soa_that_says_for_how_long(
    rfc: str, name: bytes, qtype: bytes, rcode: int
) -> None:
    question = name + qtype + IN
    reply = exchange(header(0) + question) or b""
    assert reply.startswith(header(0x8400 | rcode, authorities=1) + question + SOA_HEAD), rfc
    assert reply.endswith(b"\0\0\0\x0a"), "RFC 2308, 3: its TTL is the minimum"


def test_rfc_6891_more_fits_where_the_client_takes_it_and_over_tcp() -> None:
    question = BIG
    reply = exchange(header(0, additionals=1) + question + opt(payload=4096))
    assert reply is not None
    assert (len(reply) > 750, reply[2:4]) == (True, b"\x84\0")
    over_tcp = exchange(header(0) + question, udp=False)
    assert over_tcp is not None
    assert (len(over_tcp) > 750, over_tcp[2:4]) == (True, b"\x84\0")


def test_rfc_7873_a_cookie_is_answered_with_the_servers_also_without_a_question() -> None:
    option = b"\0\x0a\0\x08cliently"
    reply = exchange(header(0, additionals=1) + QUESTION + opt(options=option))
    assert reply is not None
    assert reply[-28:-16] == b"\0\x0a\0\x18cliently"
    alone = exchange(header(0, questions=0, additionals=1) + opt(options=option))
    assert alone is not None
    assert (alone[:12], alone[-28:-16]) == (header(0x8000, questions=0, additionals=1), b"\0\x0a\0\x18cliently")


def test_rfc_8914_a_reason_stands_beside_a_refusal() -> None:
    question = b"\7example\3org\0" + A + IN
    reply = exchange(header(0, additionals=1) + question + opt())
    assert reply == header(0x8000 | REFUSED, additionals=1) + question + opt(options=b"\0\x0f\0\2\0\x14")


def test_rfc_7828_how_long_a_connection_is_kept_is_told_over_tcp_only() -> None:
    packet = header(0, additionals=1) + QUESTION + opt(options=b"\0\x0b\0\0")
    assert (exchange(packet, udp=False) or b"").endswith(b"\0\x0b\0\2\0\x64")
    assert (exchange(packet) or b"").endswith(opt())


@pytest.mark.parametrize("qtype", [AAAA, TXT, ANY, AXFR, b"\0\x41", b"\0\x0c", b"\0\6"])
def test_what_would_not_be_answered_with_an_address_waits_for_nothing(qtype: bytes) -> None:
    assert exchange(header(0) + WWW + qtype + IN, ready=False) is not None
    assert exchange(header(0) + QUESTION, ready=False) is None
