"""The forwarder: who is asked when, what is believed, what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_dns.rules.events import ClientGone, SendResponse
from jitsu_dns.rules.exchange import Client, Exchange
from jitsu_dns.rules.forward import (
    MAX_UNDER_WAY,
    TOTAL_S,
    TRY_S,
    AskServer,
    ForgetAttempt,
    Question,
    QuestionAsked,
    ServersChanged,
)
from jitsu_dns.rules.health import HABIT_S
from jitsu_dns.rules.kept import FAILURE_S, MAX_KEPT_BYTES
from jitsu_dns.rules.message import NO_EXTRAS, Extras, Query, Records, parse, to_wire
from jitsu_dns.rules.rates import ResponseLimit
from jitsu_dns.rules.upstream import Unfit, parse_response
from jitsu_protocol.rates import Networks
from tests.support.examples import examples
from tests.support.forward import ONE, TWO, DrivenForwarder

if TYPE_CHECKING:
    from collections.abc import Callable


CLIENT_ADDRESS = bytes([127, 0, 0, 1])
Edit = "Callable[[dns.message.Message], None]"


def forwarder(*servers: tuple[str, int]) -> DrivenForwarder:
    return DrivenForwarder(*servers)


def query(name: str = "www.Example.org", rdtype: str = "A", id: int = 7, **options: Any) -> Query:
    message = dns.message.make_query(name, rdtype, **options)
    message.id = id
    parsed = parse(message.to_wire())
    assert isinstance(parsed, Query)
    return parsed


def ask(
    made: DrivenForwarder,
    asked: Query,
    now: float = 0.0,
    client: object = "c",
    *,
    address: bytes = CLIENT_ADDRESS,
    udp: bool = True,
    extras: Extras = NO_EXTRAS,
    is_proven: bool = False,
    **question: Any,
) -> bytes | None:
    exchange = Exchange(b"", asked, Client(client, address, udp), extras, is_proven)
    return made.handle(QuestionAsked(Question(exchange, **question)), now)


def asks(made: DrivenForwarder) -> AskServer:
    (found,) = [action for action in made.take() if isinstance(action, AskServer)]
    return found


def delivered(made: DrivenForwarder) -> list[dns.message.Message]:
    return [dns.message.from_wire(action.data) for action in made.take() if isinstance(action, SendResponse)]


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
    assert sent.flags == dns.flags.RD | dns.flags.AD
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7", "@ 300 IN A 198.51.100.8"), 0.1)
    (answer,) = delivered(made)
    assert (answer.id, answer.question[0].name.to_text()) == (7, "www.Example.org.")
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert sorted(rdata.to_text() for rdata in answer.answer[0]) == ["198.51.100.7", "198.51.100.8"]
    assert answer.answer[0].name == answer.question[0].name
    assert len(made.machine) == 0


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
    other_name = sound[:13] + bytes(byte ^ 0x21 for byte in sound[13:16]) + sound[16:]
    for forged in (wrong_id, other_name, action.data, sound[:20], b""):
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
    assert made.machine.deadline() == TRY_S
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
    made.health.answered(ONE, now, mixed=True, edns=True)
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
    assert made.machine.deadline() is None


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
    assert made.counts.hits == 1


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
    assert len(made.machine) == 0
    assert len({a.attempt for a in made.take() if isinstance(a, ForgetAttempt)}) == MAX_UNDER_WAY


def test_a_client_that_is_gone_is_sent_nothing() -> None:
    made = forwarder()
    ask(made, query(), client="gone", udp=False)
    ask(made, query(id=8), client="there", udp=False)
    action = asks(made)
    made.handle(ClientGone("gone"), 0.0)
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7"), 0.1)
    assert [message.id for message in delivered(made)] == [8]


@given(st.binary(max_size=300), st.integers(0, 300))
@settings(max_examples=examples(500), deadline=None)
def test_g9_any_response_is_taken_apart_or_passed_over(noise: bytes, cut: int) -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    sound = reply_to(action, "@ 300 IN A 198.51.100.7", "example.org. 60 IN SOA a. b. 1 2 3 4 5")
    for data in (noise, sound[:cut] + noise, action.data[:12] + noise, sound[:2] + b"\x81\x80" + sound[4:cut] + noise):
        response = parse_response(data, action.data)
        if not isinstance(response, Unfit):
            response.answer(query(), 100, udp=True)
    made.received(action.attempt, sound[:cut] + noise, 0.1)


NOTHING = b"\0\0"
OPT = b"\0" + b"\0\x29\x04\xd0" + bytes(4) + NOTHING
ADDRESS = b"\xc0\x0c\0\1\0\1" + (60).to_bytes(4, "big") + b"\0\4" + bytes([192, 0, 2, 9])


def raw_reply(action: AskServer, flags: int, counts: tuple[int, int, int], records: bytes) -> bytes:
    """Return a response with the question as it was asked and these records, whatever the counts say."""
    question = action.data[12 : action.data.index(b"\0", 12) + 5]
    header = action.data[:2] + flags.to_bytes(2, "big") + b"\0\1" + b"".join(n.to_bytes(2, "big") for n in counts)
    return header + question + records


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("counts", "records"),
    [
        ((1, 0, 0), OPT),
        ((1, 1, 0), ADDRESS + OPT),
        ((2, 0, 1), ADDRESS + OPT + OPT),
        ((1, 0, 1), ADDRESS + b"\1x" + OPT),  # not owned by the root
        ((2, 0, 0), ADDRESS),
        ((1, 65535, 65535), ADDRESS),
        ((1, 0, 0), ADDRESS[:-1]),
        ((1, 0, 0), ADDRESS[:10] + b"\xff\xff" + ADDRESS[12:]),
        ((1, 0, 0), b"\xc0"),
        ((1, 0, 0), b"\x3f" + ADDRESS),
    ],
)
def test_g9_a_response_whose_counts_or_lengths_are_wrong_is_a_failure_of_its_server(
    tcp: bool, counts: tuple[int, int, int], records: bytes
) -> None:
    made = forwarder()
    ask(made, query())
    first = asks(made)
    if tcp:
        made.received(first.attempt, raw_reply(first, 0x8380, (0, 0, 0), b""), 0.0)
        first = asks(made)
    made.received(first.attempt, raw_reply(first, 0x8180, counts, records), 0.0, tcp=tcp)
    second = asks(made)
    assert second.server == TWO
    made.received(second.attempt, reply_to(second, "@ 300 IN A 198.51.100.7"), 0.1)
    assert [rdata.to_text() for message in delivered(made) for rdata in message.answer[0]] == ["198.51.100.7"]


def test_an_opt_record_that_is_not_the_last_one_is_taken_off_with_what_follows_it() -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    glue = b"\2ns\xc0\x10" + ADDRESS[2:]
    made.received(action.attempt, raw_reply(action, 0x8180, (1, 0, 3), ADDRESS + glue + OPT + glue), 0.0)
    (answer,) = delivered(made)
    assert [rdata.to_text() for rdata in answer.answer[0]] == ["192.0.2.9"]
    assert [rrset.name.to_text() for rrset in answer.additional] == ["ns.Example.org."]


def test_an_answer_that_fills_a_tcp_message_is_truncated_for_a_client_with_options() -> None:
    """The client's OPT record has no room; a longer message would have no length."""
    made = forwarder()
    ask(made, query(rdtype="TXT", use_edns=0), udp=False)
    action = asks(made)
    size = 65535 - 12 - len(query().question) - 12
    text = b"\xc0\x0c\0\x10\0\1" + (60).to_bytes(4, "big") + size.to_bytes(2, "big") + bytes(size)
    made.received(action.attempt, raw_reply(action, 0x8380, (0, 0, 0), b""), 0.0)
    action = asks(made)
    made.received(action.attempt, raw_reply(action, 0x8180, (1, 0, 0), text), 0.0, tcp=True)
    (sent,) = [each.data for each in made.take() if isinstance(each, SendResponse)]
    assert len(sent) < 100
    assert dns.message.from_wire(sent).flags & dns.flags.TC
    plain = ask(made, query(rdtype="TXT"), 0.1, udp=False)
    assert plain is not None
    assert len(plain) == 65535


def refused_like(rcode: int, bare: bool) -> Callable[[AskServer], bytes]:
    def reply(action: AskServer) -> bytes:
        if rcode == 16:
            return raw_reply(action, 0x8180, (0, 0, 1), b"\0\0\x29\x04\xd0\1\0\0\0\0\0")
        return (
            action.data[:2] + b"\x81" + bytes([0x80 | rcode]) + bytes(8)
            if bare
            else raw_reply(action, 0x8180 | rcode, (0, 0, 0), b"")
        )

    return reply


@pytest.mark.parametrize(
    "reply", [refused_like(1, True), refused_like(1, False), refused_like(4, True), refused_like(16, False)]
)
def test_a_server_that_does_not_know_edns_is_asked_without_and_that_is_remembered(
    reply: Callable[[AskServer], bytes],
) -> None:
    made = forwarder(ONE)
    ask(made, query())
    first = asks(made)
    made.received(first.attempt, reply(first), 0.1)
    again = asks(made)
    assert (again.server, dns.message.from_wire(first.data).edns, dns.message.from_wire(again.data).edns) == (
        ONE,
        0,
        -1,
    )
    made.received(again.attempt, reply_to(again, "@ 300 IN A 198.51.100.7"), 0.2)
    assert [message.rcode() for message in delivered(made)] == [0]
    ask(made, query("next.example.org"), 1.0)
    assert dns.message.from_wire(asks(made).data).edns == -1
    ask(made, query("later.example.org"), HABIT_S + 1)
    assert dns.message.from_wire(asks(made).data).edns == 0


def test_a_server_that_says_formerr_either_way_has_failed_and_nothing_is_remembered() -> None:
    made = forwarder(ONE)
    ask(made, query())
    for _ in range(2):
        action = asks(made)
        made.received(action.attempt, refused_like(1, True)(action), 0.1)
    assert [message.rcode() for message in delivered(made)] == [2]
    ask(made, query("next.example.org"), 1.0)
    assert dns.message.from_wire(asks(made).data).edns == 0


def lowered(action: AskServer) -> bytes:
    reply = reply_to(action, "@ 300 IN A 198.51.100.7")
    end = reply.index(b"\0", 12)
    return reply[:12] + reply[12:end].lower() + reply[end:]


def test_a_server_that_gives_the_name_back_in_lower_case_is_asked_so_and_that_is_remembered() -> None:
    made = forwarder(ONE)
    ask(made, query())
    first = asks(made)
    made.received(first.attempt, lowered(first), 0.1)
    again = asks(made)
    assert again.data[:2] != first.data[:2]  # what was learnt of the first question is of no use to a forger
    assert again.data[12:29] == b"\3www\7example\3org\0"
    made.received(again.attempt, lowered(again), 0.2)
    (answer,) = delivered(made)
    assert (answer.rcode(), answer.question[0].name.to_text()) == (0, "www.Example.org.")
    ask(made, query("next.example.org"), 1.0)
    assert asks(made).data[12:30] == b"\4next\7example\3org\0"


def test_cd_is_given_on_and_back_and_its_answers_are_kept_apart() -> None:
    made = forwarder()
    for flags in (dns.flags.RD | dns.flags.CD, dns.flags.RD):
        assert ask(made, query(flags=flags)) is None
        action = asks(made)
        assert bool(action.data[3] & 0x10) is bool(flags & dns.flags.CD)
        made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7"), 0.0)
        (answer,) = delivered(made)
        assert bool(answer.flags & dns.flags.CD) is bool(flags & dns.flags.CD)
    ask(made, query("bad.example.org", flags=dns.flags.RD | dns.flags.CD))
    made.passed(TOTAL_S)
    (failure,) = delivered(made)
    assert failure.flags & dns.flags.CD


def test_ad_comes_back_to_clients_that_know_what_it_means() -> None:
    made = forwarder()
    ask(made, query())

    def validated(reply: dns.message.Message) -> None:
        reply.flags |= dns.flags.AD

    action = asks(made)
    assert action.data[3] & 0x20
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7", edit=validated), 0.0)
    (plain,) = delivered(made)
    asked = ask(made, query(flags=dns.flags.RD | dns.flags.AD), 0.1)
    assert asked is not None
    assert (bool(plain.flags & dns.flags.AD), bool(asked[3] & 0x20)) == (False, True)


@pytest.mark.parametrize("rcode", [0, 3])
def test_rfc_2308_a_denial_behind_an_alias_is_kept_no_longer_than_the_alias(rcode: int) -> None:
    made = forwarder()
    ask(made, query())
    action = asks(made)
    records = ("@ 20 IN CNAME gone.example.net.", "example.net. 600 IN SOA a. b. 1 2 3 4 300")
    made.received(
        action.attempt, reply_to(action, *records, edit=lambda reply: reply.set_rcode(dns.rcode.Rcode(rcode))), 0.0
    )
    delivered(made)
    assert ask(made, query(), 19.5) is not None
    assert ask(made, query(), 20.0) is None


@pytest.mark.parametrize(("alias_ttl", "kept_s"), [(600, 300), (60, 60)])
def test_rfc_2308_no_such_type_behind_an_alias_is_kept_as_the_soa_says(alias_ttl: int, kept_s: int) -> None:
    made = forwarder()
    ask(made, query(rdtype="AAAA"))
    action = asks(made)
    records = (f"@ {alias_ttl} IN CNAME there.example.net.", "example.net. 900 IN SOA a. b. 1 2 3 4 300")
    made.received(action.attempt, reply_to(action, *records), 0.0)
    delivered(made)
    assert ask(made, query(rdtype="AAAA"), kept_s - 0.5) is not None
    assert ask(made, query(rdtype="AAAA"), kept_s) is None


def test_rfc_9520_a_failure_is_remembered_for_a_second() -> None:
    made = forwarder(ONE)
    ask(made, query())
    action = asks(made)
    made.failed(action.attempt, "Connection refused", 0.1)
    assert len(delivered(made)) == 1
    again = ask(made, query(use_edns=0), 0.1 + FAILURE_S - 0.01)
    assert again is not None
    message = dns.message.from_wire(again)
    option: Any = message.options[0]
    assert (message.rcode(), int(option.code), option.text) == (2, 13, "192.0.2.1: Connection refused")
    assert made.counts.asked == 1
    assert ask(made, query(), 0.1 + FAILURE_S) is None


def test_answers_that_are_kept_are_bounded_in_bytes() -> None:
    made = forwarder()
    size = 60_000
    text = b"\xc0\x0c\0\x10\0\1" + (60).to_bytes(4, "big") + size.to_bytes(2, "big") + bytes(size)
    for number in range(MAX_KEPT_BYTES // size + 50):
        ask(made, query(f"n{number}.example.org", "TXT"), udp=False)
        action = asks(made)
        made.received(action.attempt, raw_reply(action, 0x8180, (1, 0, 0), text), 0.0)
        made.take()
    assert MAX_KEPT_BYTES - 62_000 < made.kept.size_bytes <= MAX_KEPT_BYTES
    assert ask(made, query("n0.example.org", "TXT"), 1.0) is None
    assert ask(made, query(f"n{number}.example.org", "TXT"), 1.0) is not None


def test_forwarded_answers_and_failures_carry_the_clients_cookie() -> None:
    cookie = bytes(range(24))
    made = forwarder(ONE)
    ask(made, query(use_edns=0), extras=Extras(cookie=cookie))
    ask(made, query("bad.example.org", use_edns=0), extras=Extras(cookie=cookie))
    one, two = (each for each in made.take() if isinstance(each, AskServer))
    made.received(one.attempt, reply_to(one, "@ 300 IN A 198.51.100.7"), 0.0)
    made.failed(two.attempt, "no", 0.0)
    for message in delivered(made):
        assert any(int(option.otype) == 10 for option in message.options)
    kept = ask(made, query(use_edns=0), 0.1, extras=Extras(cookie=cookie))
    assert cookie in (kept or b"")


def test_an_alias_of_ours_is_followed_and_its_records_come_first() -> None:
    made = forwarder()
    target = to_wire("www.elsewhere.net")
    record = b"\xc0\x0c\0\5\0\1" + (30).to_bytes(4, "big") + len(target).to_bytes(2, "big") + target
    options: dict[str, Any] = {"aliases": Records(record, 1), "target": target}
    assert ask(made, query("a.jitsu.test"), **options) is None
    action = asks(made)
    assert dns.message.from_wire(action.data).question[0].name.to_text().lower() == "www.elsewhere.net."
    records = ("@ 300 IN CNAME b.elsewhere.net.", "b.elsewhere.net. 200 IN A 198.51.100.7")
    made.received(action.attempt, reply_to(action, *records), 0.0)
    for message in (*delivered(made), dns.message.from_wire(ask(made, query("a.jitsu.test"), 10.0, **options) or b"")):
        age = 0 if message.answer[1].ttl == 300 else 10
        assert [rrset.to_text() for rrset in message.answer] == [
            "a.jitsu.test. 30 IN CNAME www.elsewhere.net.",
            f"www.elsewhere.net. {300 - age} IN CNAME b.elsewhere.net.",
            f"b.elsewhere.net. {200 - age} IN A 198.51.100.7",
        ]
        assert message.question[0].name.to_text() == "a.jitsu.test."
    direct = ask(made, query("www.elsewhere.net"), 10.0)  # what was learnt serves who asks for the target itself
    assert direct is not None
    assert len(dns.message.from_wire(direct).answer) == 2


def test_g10_forwarded_answers_over_udp_are_limited_whether_kept_failed_or_new() -> None:
    made = DrivenForwarder(ONE, responses=ResponseLimit(10, Networks([])))
    ask(made, query())
    action = asks(made)
    made.received(action.attempt, reply_to(action, "@ 300 IN A 198.51.100.7"), 0.0)
    assert len(delivered(made)) == 1
    answers = [ask(made, query(), 0.0) for _ in range(29)]
    assert [len(each or b"") > 40 for each in answers[:9]] == [True] * 9
    assert answers[9::2] == [b""] * 10
    assert {dns.message.from_wire(each or b"").flags & dns.flags.TC for each in answers[10::2]} == {dns.flags.TC}
    assert len(ask(made, query(), 0.0, udp=False) or b"") > 40
    assert len(ask(made, query(), 0.0, is_proven=True) or b"") > 40
    for number in range(30):  # whatever the name: the answer says the same
        ask(made, query(f"f{number}.example.org"), 0.0)
    for action in [each for each in made.take() if isinstance(each, AskServer)]:
        made.failed(action.attempt, "no", 0.0)
    assert len(delivered(made)) == 20


def test_other_servers_are_taken_while_questions_are_under_way() -> None:
    three = ("192.0.2.3", 53)
    made = forwarder()
    ask(made, query())
    first = asks(made)
    made.handle(ServersChanged([three], Networks(["127.0.0.0/8"])), 0.0)
    made.failed(first.attempt, "no", 0.1)
    assert [message.rcode() for message in delivered(made)] == [2]  # the second server is no longer there
    ask(made, query("next.example.org"), 0.2)
    assert asks(made).server == three
    made.handle(ServersChanged([], Networks(["127.0.0.0/8"])), 0.0)
    said = dns.message.from_wire(ask(made, query("more.example.org", use_edns=0), 0.3) or b"")
    option: Any = said.options[0]
    assert (said.rcode(), option.text) == (2, "there is no server to forward to (dns.forward)")
