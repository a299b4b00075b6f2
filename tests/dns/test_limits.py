"""What is limited of what a replica sends over UDP, and what its memory of packets costs."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import dns.edns
import dns.message
import pytest

from jitsu_dns.rules import warm
from jitsu_dns.rules.cookies import Cookies
from jitsu_dns.rules.events import SendResponse
from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.forward import AskServer, AttemptFailed, Forwarder, ResponseReceived
from jitsu_dns.rules.names import Known, Names
from jitsu_dns.rules.rates import ResponseLimit
from jitsu_protocol.model.errors import BootFailed
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM_ROOT, to_tree
from jitsu_protocol.rates import Networks
from tests.support.front import ADDRESS, NOBODY, VM_WWW, OneSender, front, state
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.front import DrivenFront

RATE = 5
QUERIES = 40
SERVER = ("192.0.2.53", 53)
COLD = make_vm("cold", "127.0.1.2")


def limited_front() -> DrivenFront:
    responses = ResponseLimit(RATE, NOBODY)
    forwarder = Forwarder([SERVER], Networks(["192.0.2.1"]), random.Random(1), responses)
    made = front(VM_WWW, COLD, responses=responses, forward=forwarder, static=["a.jitsu.test. 9 IN CNAME b.else.net."])
    state(made, VmState.READY)
    return made


def make(name: str, rdtype: str = "A", rdclass: str = "IN", **options: object) -> bytes:
    return dns.message.make_query(name, rdtype, rdclass, **options).to_wire()  # type: ignore[arg-type]


def with_version_one() -> bytes:
    return make("www.jitsu.test", use_edns=1)


def with_a_cookie_only() -> bytes:
    query = dns.message.Message(id=1)
    query.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(8))])
    return query.to_wire()


KINDS: dict[str, Callable[[], bytes]] = {
    "another version": with_version_one,
    "a cookie": with_a_cookie_only,
    "the version": lambda: make("version.bind", "TXT", "CH"),
    "another class": lambda: make("www.jitsu.test", rdclass="HS"),
    "a transfer": lambda: make("jitsu.test", "AXFR"),
    "an incremental transfer": lambda: make("jitsu.test", "IXFR"),
    "type 0": lambda: make("www.jitsu.test", "TYPE0"),
    "malformed": lambda: make("www.jitsu.test")[:-1],
    "a name that is not there": lambda: make(f"n{random.random()}.jitsu.test"),
    "another type": lambda: make("www.jitsu.test", "TXT"),
    "a warm name": lambda: make("www.jitsu.test"),
    "a cold name": lambda: make("cold.jitsu.test"),
    "a name outside": lambda: make(f"n{random.random()}.else.net", flags=0),
    "a forwarded name": lambda: make("www.else.net"),
    "forwarded names that fail": lambda: make(f"n{random.random()}.bad.net"),
    "an alias that leads outside": lambda: make("a.jitsu.test"),
}


def outcome(made: DrivenFront, data: bytes, *, udp: bool) -> int:
    """Ask one question; return how many whole answers it got, at once or later."""
    (answer,) = made.warm([data], 1.0, OneSender()) if udp else (None,)
    if answer is None:
        answer = made.query(data, Client("client", ADDRESS, udp), 1.0)
    sent = []
    for action in made.take():
        if isinstance(action, AskServer) and b"bad" in action.data.lower():
            made.handle(AttemptFailed(action.attempt, "no"), 1.0)
        elif isinstance(action, AskServer):
            end = action.data.index(b"\0", 12) + 5
            reply = action.data[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + action.data[12:end]
            reply += b"\xc0\x0c\0\1\0\1" + bytes(3) + b"\x3c\0\4" + bytes(4)
            made.handle(ResponseReceived(action.attempt, reply), 1.0)
        elif isinstance(action, SendResponse):
            sent.append(action.data)
    made.refused(COLD.uuid, BootFailed("no"), 1.0)
    sent += [action.data for action in made.take() if isinstance(action, SendResponse)]
    return sum(not each[2] & 2 for each in [answer or b"", *sent] if each)


@pytest.mark.parametrize("kind", KINDS)
def test_g10_whatever_is_sent_over_udp_is_limited_and_over_tcp_it_is_not(kind: str) -> None:
    made = limited_front()
    whole = sum(outcome(made, KINDS[kind](), udp=True) for _ in range(QUERIES))
    assert whole <= RATE + 1  # a name that is asked for cold and warm later has two limits
    assert whole >= RATE - 1
    if kind not in ("a transfer", "an incremental transfer"):
        assert sum(outcome(limited_front(), KINDS[kind](), udp=False) for _ in range(QUERIES)) == QUERIES


def test_a_client_whose_cookie_shows_its_address_is_not_limited() -> None:
    cookie = Cookies(bytes(16)).answer(bytes(8), ADDRESS, 1.0)
    option = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)]
    for name in ("www.jitsu.test", "cold.jitsu.test", "none.jitsu.test", "www.else.net", "a.jitsu.test"):
        made = limited_front()
        data = make(name, use_edns=0, options=option)
        assert sum(outcome(made, data, udp=True) for _ in range(QUERIES)) == QUERIES


def test_g9_packets_that_differ_in_options_nobody_knows_take_no_memory() -> None:
    made = front(VM_WWW)
    state(made, VmState.READY)
    for number in range(50):
        option = [dns.edns.GenericOption(dns.edns.OptionType.PADDING, number.to_bytes(600, "big"))]
        answer = made.query(make("www.jitsu.test", use_edns=0, options=option), Client("c", ADDRESS, True), 1.0)
        assert dns.message.from_wire(answer or b"").answer
    assert made.packets_kept == 0
    for edns in (0, -1):
        made.query(make("www.jitsu.test", use_edns=edns), Client("c", ADDRESS, True), 1.0)
    assert made.packets_kept == 2


def test_g9_packets_that_are_kept_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MAX_KEPT_BYTES", 20_000)
    made = front(VM_WWW)
    state(made, VmState.READY)
    chance = random.Random(1)
    name = "www.jitsu.test"
    for _ in range(200):
        mixed = "".join(chance.choice((letter, letter.upper())) for letter in name)
        data = make(mixed)
        made.query(data, Client("c", ADDRESS, True), 1.0)
    assert 10 < made.packets_kept < 50
    assert made.warm([data], 1.0) != [None]  # the latest is there


def test_a_question_that_is_held_is_charged_once_however_often_it_is_looked_at() -> None:
    made = front(names=Names(), vms_are_told=False, responses=ResponseLimit(1, NOBODY))
    state(made, VmState.READY)
    assert made.query(make("www.jitsu.test"), Client("client", ADDRESS, True), 1.0) is None
    for other in range(3):
        made.names.apply({f"{VM_ROOT}/other-{other}/config/dns/0": f"o{other}.jitsu.test"}.items())
        made.names.known = Known.REMEMBERED  # it may still be any name
        made.told(other + 1, 1.0)
    assert made.take() == [], "it is held on"
    assert made.query(make("n.jitsu.test"), Client("other", ADDRESS, True), 1.0) is not None, (
        "a new one is over the limit"
    )
    made.names.apply(to_tree(VM_WWW).items())
    made.names.confirm()
    made.told(5, 1.0)
    (sent,) = [each for each in made.take() if isinstance(each, SendResponse)]
    assert dns.message.from_wire(sent.data).answer[0][0].to_text() == "127.0.1.1"
