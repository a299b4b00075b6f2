"""The forwarder: who is asked when, what is believed, what is kept."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_dns.rules.forward import MAX_UNDER_WAY, TOTAL_S, TRY_S, AskServer, Deliver, ForgetServer, Forwarder
from jitsu_dns.rules.message import Query, parse
from jitsu_dns.rules.upstream import parse_response
from jitsu_protocol.limits import Networks

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO = ("192.0.2.1", 53), ("192.0.2.2", 53)
CLIENT_ADDRESS = bytes([127, 0, 0, 1])
Edit = "Callable[[dns.message.Message], None]"


def forwarder(*servers: tuple[str, int]) -> Forwarder:
    addresses = frozenset({bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])})
    return Forwarder(servers or (ONE, TWO), Networks(["127.0.0.0/8"]), addresses, random.Random(1))


def query(name: str = "www.Example.org", rdtype: str = "A", id: int = 7, **options: Any) -> Query:
    message = dns.message.make_query(name, rdtype, **options)
    message.id = id
    parsed = parse(message.to_wire())
    assert isinstance(parsed, Query)
    return parsed


def ask(made: Forwarder, asked: Query, now: float = 0.0, client: object = "c", **options: Any) -> bytes | None:
    return made.ask(asked, client, options.get("address", CLIENT_ADDRESS), now, udp=options.get("udp", True))


def asks(made: Forwarder) -> AskServer:
    (found,) = [action for action in made.take() if isinstance(action, AskServer)]
    return found


def delivered(made: Forwarder) -> list[dns.message.Message]:
    return [dns.message.from_wire(action.data) for action in made.take() if isinstance(action, Deliver)]


def reply_to(action: AskServer, *records: str, edit: Callable[[dns.message.Message], None] | None = None) -> bytes:
    asked = dns.message.from_wire(action.data)
    reply = dns.message.make_response(asked, recursion_available=True)
    for text in records:
        name, ttl, _, rdtype, rdata = text.split(maxsplit=4)
        section = reply.authority if rdtype == "SOA" else reply.answer
        owner = asked.question[0].name if name == "@" else name
        section.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, rdata))
    if edit is not None:
        edit(reply)
    return reply.to_wire(max_size=65535)


def test_an_answer_comes_back_with_the_clients_id_and_case() -> None:
    made = forwarder()
    assert ask(made, query()) is None
    action = asks(made)
    assert (action.server, action.tcp) == (ONE, False)
    sent = dns.message.from_wire(action.data)
    assert sent.question[0].name.to_text().lower() == "www.example.org."
    assert sent.flags == dns.flags.RD
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7", "@ 300 IN A 198.51.100.8"), 0.1)
    (answer,) = delivered(made)
    assert (answer.id, answer.question[0].name.to_text()) == (7, "www.Example.org.")
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert sorted(rdata.to_text() for rdata in answer.answer[0]) == ["198.51.100.7", "198.51.100.8"]
    assert answer.answer[0].name == answer.question[0].name
    assert len(made) == 0


def test_ids_and_cases_differ_from_question_to_question() -> None:
    made, seen = forwarder(), set()
    for number in range(50):
        ask(made, query(f"a-rather-long-name-{number}.example.org"))
        seen.add(asks(made).data[:30])
    assert len({data[:2] for data in seen}) > 45
    assert len({data[13:25] for data in seen}) > 40


def test_questions_alike_are_asked_once_and_all_are_answered() -> None:
    made = forwarder()
    for client in range(3):
        ask(made, query(id=client), client=client)
    ask(made, query(rdtype="AAAA"), client="other")
    actions = [action for action in made.take() if isinstance(action, AskServer)]
    assert len(actions) == 2
    made.received(actions[0].attempt, reply_to(actions[0], "@ 300 IN A 198.51.100.7"), 0.1)
    assert [message.id for message in delivered(made)] == [0, 1, 2]


def test_what_a_forger_sends_is_passed_over() -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    sound = reply_to(action, "@ 300 IN A 198.51.100.7")
    wrong_id = bytes([sound[0] ^ 1]) + sound[1:]
    other_case = sound[:13] + bytes(byte ^ 0x20 for byte in sound[13:16]) + sound[16:]
    for forged in (wrong_id, other_case, action.data, sound[:20], b"", sound[:-3]):
        made.received(action.attempt, forged, 0.1)
        assert made.take() == []
    made.received(action.attempt + 1, sound, 0.1)
    assert made.take() == []
    made.received(action.attempt, sound, 0.2)
    assert len(delivered(made)) == 1


def test_the_next_server_is_asked_when_one_is_silent_or_says_no() -> None:
    made = forwarder()
    ask(made, query())
    first = asks(made)
    assert made.next_deadline() == TRY_S
    made.passed(TRY_S)
    second = asks(made)
    assert (second.server, second.data[:2] != first.data[:2]) == (TWO, True)
    made.received(second.attempt, reply_to(second, edit=lambda reply: reply.set_rcode(dns.rcode.SERVFAIL)), 1.0)
    (answer,) = delivered(made)
    option: Any = answer.options[0] if answer.options else None
    assert (answer.rcode(), option) == (dns.rcode.SERVFAIL, None)
    ask(made, query("other.example.org", use_edns=0), 1.1)
    assert asks(made).server == ONE  # both have failed; the first is out of its penalty sooner


def test_a_server_that_fails_comes_last_for_a_while_that_doubles() -> None:
    made, now = forwarder(), 0.0
    for _ in range(3):
        made.health.failed(ONE, now)
        assert made.health.order(now) == [TWO, ONE]
        now += 40
        assert made.health.order(now) == [ONE, TWO]
    made.health.failed(ONE, now)
    assert made.health.order(now + 7.9) == [TWO, ONE]
    made.health.answered(ONE)
    assert made.health.order(now + 7.9) == [ONE, TWO]


def test_g2_nobody_waits_longer_than_the_limit_and_hears_why() -> None:
    made = forwarder(ONE)
    ask(made, query(use_edns=0))
    asks(made)
    made.passed(TOTAL_S - 0.01)
    assert made.take() == []
    made.passed(TOTAL_S)
    (answer,) = delivered(made)
    option: Any = answer.options[0]
    assert (answer.rcode(), int(option.code), option.text) == (2, 23, "no server answers")
    assert made.next_deadline() is None


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    made = forwarder()
    ask(made, query(rdtype="TXT"), udp=False)
    first = asks(made)

    def cut(reply: dns.message.Message) -> None:
        reply.flags |= dns.flags.TC

    made.received(first.attempt, reply_to(first, edit=cut), 0.1)
    again = asks(made)
    assert (again.server, again.tcp, again.data) == (ONE, True, first.data)
    long = " ".join(f'"{letter * 250}"' for letter in "abcdef")
    made.received(again.attempt, reply_to(again, f"@ 60 IN TXT {long}"), 0.2, tcp=True)
    (answer,) = delivered(made)
    assert len(answer.answer[0][0].to_text()) > 1500
    cached = ask(made, query(rdtype="TXT", use_edns=0), 0.3)
    assert cached is not None
    assert dns.message.from_wire(cached).flags & dns.flags.TC


def test_what_was_answered_is_kept_as_long_as_its_ttls_say_and_they_count_down() -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    made.received(
        action.attempt, reply_to(action, "@ 300 IN CNAME w.example.net.", "w.example.net. 20 IN A 192.0.2.9"), 0.0
    )
    delivered(made)
    kept = dns.message.from_wire(ask(made, query(id=9), 15.5) or b"")
    assert (kept.id, [rrset.ttl for rrset in kept.answer]) == (9, [285, 5])
    assert ask(made, query(), 20.0) is None
    assert made.hits == 1


@pytest.mark.parametrize(
    ("rcode", "soa_ttl", "minimum", "kept_s"), [(3, 600, 30, 30), (0, 20, 900, 20), (0, 99999, 99999, 10800)]
)
def test_rfc_2308_denials_are_kept_as_the_soa_says(rcode: int, soa_ttl: int, minimum: int, kept_s: int) -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    soa = f"example.org. {soa_ttl} IN SOA a. b. 1 2 3 4 {minimum}"
    made.received(
        action.attempt, reply_to(action, soa, edit=lambda reply: reply.set_rcode(dns.rcode.Rcode(rcode))), 0.0
    )
    delivered(made)
    assert ask(made, query(), kept_s - 0.5) is not None
    assert ask(made, query(), kept_s) is None


def test_failures_and_denials_without_an_soa_are_not_kept() -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    made.received(action.attempt, reply_to(action, edit=lambda reply: reply.set_rcode(dns.rcode.NXDOMAIN)), 0.0)
    assert [message.rcode() for message in delivered(made)] == [3]
    assert ask(made, query(), 0.1) is None


def test_a_loop_is_broken() -> None:
    made = forwarder()
    ask(made, query(use_edns=0))
    looped = ask(made, query(use_edns=0), address=bytes([192, 0, 2, 1]))
    assert looped is not None
    option: Any = dns.message.from_wire(looped).options[0]
    assert "loop" in option.text


def test_g9_what_is_under_way_is_bounded() -> None:
    made = forwarder()
    for number in range(MAX_UNDER_WAY):
        assert ask(made, query(f"n{number}.example.org")) is None
    assert ask(made, query("more.example.org")) is not None
    made.passed(TOTAL_S)
    assert len(made) == 0
    assert len({a.attempt for a in made.take() if isinstance(a, ForgetServer)}) == MAX_UNDER_WAY


def test_a_client_that_is_gone_is_sent_nothing() -> None:
    made = forwarder()
    ask(made, query(), client="gone")
    ask(made, query(id=8), client="there")
    action = asks(made)
    made.gone("gone")
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7"), 0.1)
    assert [message.id for message in delivered(made)] == [8]


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(max_examples=500, deadline=None)
def test_g9_any_response_is_taken_apart_or_passed_over(noise: bytes, cut: int) -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    sound = reply_to(action, "@ 300 IN A 198.51.100.7", "example.org. 60 IN SOA a. b. 1 2 3 4 5")
    for data in (noise, sound[:cut] + noise, action.data[:12] + noise, sound[:2] + b"\x81\x80" + sound[4:cut] + noise):
        response = parse_response(data, action.data)
        if response is not None:
            response.answer(query(), 100, udp=True)
    made.received(action.attempt, sound[:cut] + noise, 0.1)
