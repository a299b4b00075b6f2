"""Queries and responses as bytes, against dnspython."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_dns.rules.message import (
    MAX_UDP_BYTES,
    Ede,
    Extras,
    Malformed,
    Query,
    Rcode,
    Records,
    parents,
    parse,
    respond,
    to_wire,
    udp_limit,
)
from tests.support.examples import examples

labels = st.from_regex(r"[a-zA-Z0-9_]{1,20}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)


def query(name: str = "www.Jitsu.test", rdtype: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, rdtype, **options).to_wire()  # type: ignore[arg-type]


def parsed(data: bytes) -> Query:
    result = parse(data)
    assert isinstance(result, Query), result
    return result


@given(names, st.sampled_from(["A", "AAAA", "TXT", "ANY", "SVCB"]), st.booleans(), st.integers(512, 4096))
def test_what_dnspython_asks_is_understood(name: str, rdtype: str, edns: bool, payload: int) -> None:
    message = dns.message.make_query(name, rdtype, use_edns=0 if edns else False, payload=payload)
    taken = parsed(message.to_wire())
    assert (taken.id, taken.qtype, taken.qclass) == (message.id, int(message.question[0].rdtype), 1)
    assert taken.key == to_wire(name.lower())
    assert (taken.edns is not None) == edns
    if taken.edns is not None:
        assert taken.edns.udp_bytes == payload


@given(names, st.booleans(), st.sampled_from(list(Rcode)), st.booleans())
def test_what_is_answered_dnspython_understands(name: str, edns: bool, rcode: Rcode, rd: bool) -> None:
    asked = dns.message.make_query(name, "A", use_edns=0 if edns else False)
    asked.flags = dns.flags.RD if rd else 0
    if rcode is Rcode.BADVERS and not edns:
        return
    reply = respond(parsed(asked.to_wire()), rcode, extras=Extras(ede=(Ede.NOT_READY, "boots")))
    answer = dns.message.from_wire(reply)
    assert asked.is_response(answer)
    assert answer.rcode() == int(rcode)
    assert bool(answer.flags & dns.flags.RD) == rd
    assert reply[12 : 12 + len(to_wire(name))] == asked.to_wire()[12 : 12 + len(to_wire(name))]  # 0x20
    assert (answer.edns == 0) == edns
    if edns:
        (option,) = answer.options
        assert isinstance(option, dns.edns.EDEOption)
        assert (int(option.code), option.text) == (14, "boots")


def header(flags: int = 0x0100, questions: int = 1, answers: int = 0, additionals: int = 0) -> bytes:
    return b"\x12\x34" + b"".join(number.to_bytes(2, "big") for number in (flags, questions, answers, 0, additionals))


QUESTION = b"\x01a\x00\x00\x01\x00\x01"
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize("data", [b"", b"\x00" * 11, header(0x8000) + QUESTION, header(0x8400, 0)])
def test_fragments_and_responses_are_not_answered(data: bytes) -> None:
    assert parse(data) == Malformed(None)


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (header(0x2800) + QUESTION, Rcode.NOTIMP),
        (header(questions=0), Rcode.FORMERR),
        (header(questions=2) + QUESTION + QUESTION, Rcode.FORMERR),
        (header() + b"\x01a", Rcode.FORMERR),
        (header() + b"\x01a\x00\x00\x01", Rcode.FORMERR),
        (header() + b"\xc0\x0c\x00\x01\x00\x01", Rcode.FORMERR),
        (header() + b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01", Rcode.FORMERR),
        (header() + (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01", Rcode.FORMERR),
        (header(additionals=1) + QUESTION, Rcode.FORMERR),
        (header(additionals=2) + QUESTION + OPT + OPT, Rcode.FORMERR),
        (header(additionals=1) + QUESTION + b"\x01b" + OPT, Rcode.FORMERR),
        (header(answers=1) + QUESTION + OPT, Rcode.FORMERR),
        (header(additionals=1) + QUESTION + OPT[:-1] + b"\x09", Rcode.FORMERR),
    ],
)
def test_malformed_queries_are_answered_with_their_rcode(data: bytes, rcode: Rcode) -> None:
    result = parse(data)
    assert isinstance(result, Malformed)
    assert result.reply is not None
    assert len(result.reply) == 12
    assert result.reply[:2] == b"\x12\x34"
    assert result.reply[2] & 0x80
    assert result.reply[3] & 0xF == rcode


def test_other_additional_records_are_passed_over() -> None:
    tsig = b"\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x02xx"
    assert parsed(header(additionals=2) + QUESTION + OPT + tsig).edns is not None


def test_a_response_that_is_too_large_for_udp_is_truncated_and_for_tcp_it_is_not() -> None:
    large = Records(b"x" * 2000, 1)
    for data, limit in ((query(use_edns=False), 512), (query(use_edns=0, payload=4096), MAX_UDP_BYTES)):
        asked = parsed(data)
        assert udp_limit(asked) == limit
        reply = respond(asked, Rcode.NOERROR, large)
        assert dns.message.from_wire(reply).flags & dns.flags.TC
        assert len(reply) <= limit
        assert len(respond(asked, Rcode.NOERROR, large, udp=False)) > 2000


def test_a_client_that_asks_for_less_than_512_gets_512() -> None:
    assert udp_limit(parsed(header(additionals=1) + QUESTION + b"\x00\x00\x29\x00\x01" + b"\x00" * 6)) == 512


def test_parents_go_up_to_the_last_label() -> None:
    assert parents(to_wire("a.b.c")) == [to_wire("a.b.c"), to_wire("b.c"), to_wire("c")]


@settings(max_examples=examples(5000))
@given(st.binary(max_size=80))
def test_g9_any_packet_is_taken_apart_or_refused(data: bytes) -> None:
    _survives(data)


@settings(max_examples=examples(5000))
@given(st.integers(0, 60), st.integers(0, 255), st.integers(0, 60), st.integers(0, 255))
def test_g9_a_mutated_query_is_taken_apart_or_refused(at: int, value: int, other: int, second: int) -> None:
    data = bytearray(query())
    data[at % len(data)] = value
    data[other % len(data)] = second
    _survives(bytes(data))
    _survives(bytes(data[: at % len(data)]))


def _survives(data: bytes) -> None:
    result = parse(data)
    reply = respond(result, Rcode.SERVFAIL) if isinstance(result, Query) else result.reply
    if reply is not None:
        assert reply[2] & 0x80
        assert not data[2] & 0x80
        assert len(reply) <= max(len(data) + 11, 512)
