"""Zones for secondaries: what a transfer contains while zones change, and which secondaries are notified of changes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import dns.message
import dns.opcode
import dns.rcode
import dns.rrset

from jitsu_dns.rules.events import SendZone
from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.message import Type, to_wire
from jitsu_dns.rules.notify import (
    FIRST_RETRY_S,
    GATHER_S,
    MAX_AT_ONCE,
    MAX_TRIES,
    LogUnheard,
    Notifier,
    NotifyAnswered,
    SendNotify,
    ZonesChanged,
)
from jitsu_dns.rules.records import Authority, parse_static
from jitsu_dns.rules.table import MAX_TRANSFERS, Table
from jitsu_dns.rules.transfer import MESSAGE_BYTES, is_older, serial_in
from jitsu_protocol.model.inventory import VmChanged
from tests.support.front import CLIENT, front
from tests.support.vms import make_vm
from tests.support.work import instructions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.front import DrivenFront

SECONDARY = ("192.0.2.1", 53)
ASKER = Client(CLIENT, bytes([192, 0, 2, 1]), False)
ZONE = to_wire("jitsu.test")


def notifier(soa: bytes | None = b"soa", *servers: tuple[str, int]) -> Notifier:
    return Notifier(servers or (SECONDARY,), lambda _: soa, random.Random(1))


def sent(made: Notifier, now: float) -> list[SendNotify]:
    return [action for action in made.tick(now) if isinstance(action, SendNotify)]


def given(made: DrivenFront, rdtype: str = "AXFR", zone: str = "jitsu.test", serial: int = 0) -> Iterator[bytes]:
    """Ask for a zone over TCP; what is answered at once is all that comes."""
    query = dns.message.make_query(zone, rdtype)
    if serial:
        query.authority.append(dns.rrset.from_text(f"{zone}.", 0, "IN", "SOA", f". . {serial} 0 0 0 0"))
    answer = made.query(query.to_wire(), ASKER, 1.0)
    actions = [action for action in made.take() if isinstance(action, SendZone)]
    return iter([answer]) if answer is not None else actions[0].messages


def lines(messages: Iterator[bytes]) -> list[str]:
    """Return all records of a transfer, in their order."""
    found = []
    for message in messages:
        assert len(message) <= MESSAGE_BYTES + 200
        for rrset in dns.message.from_wire(message, one_rr_per_rrset=True).answer:
            found.append(rrset.to_text())
    return found


def rcode(messages: Iterator[bytes]) -> str:
    return dns.rcode.to_text(dns.message.from_wire(next(messages)).rcode())


def with_secondary(*vms: object, static: tuple[str, ...] = ()) -> DrivenFront:
    return front(*vms, static=static, notify=notifier())  # type: ignore[arg-type]


def test_a_transfer_has_all_that_is_asked_for_by_name_between_two_soas() -> None:
    www = make_vm(ip="192.0.2.10", alias="w.jitsu.test")
    wild = make_vm("wild", "2001:db8::1", dns="*.p.jitsu.test")
    other = make_vm("other", "192.0.2.11", dns="www.xjitsu.test")
    made = with_secondary(www, wild, other, static=("jitsu.test. 5 IN MX 1 w.jitsu.test.", "t.jitsu.test. 6 IN TXT x"))
    found = lines(given(made))
    soa = "jitsu.test. 10 IN SOA ns.jitsu.test. hostmaster.jitsu.test. 1 3600 600 86400 10"
    assert found[0] == found[-1] == soa
    assert sorted(found[1:-1]) == [
        "*.p.jitsu.test. 60 IN AAAA 2001:db8::1",
        "jitsu.test. 3600 IN NS ns.jitsu.test.",
        "jitsu.test. 5 IN MX 1 w.jitsu.test.",
        't.jitsu.test. 6 IN TXT "x"',
        "w.jitsu.test. 60 IN CNAME www.jitsu.test.",
        "www.jitsu.test. 60 IN A 192.0.2.10",
    ]


def test_name_servers_have_their_addresses_in_it() -> None:
    authority = Authority(
        nameservers=("ns1.jitsu.test", "ns2.jitsu.test", "ns.example.org"),
        glue={"ns1.jitsu.test": ("192.0.2.1", "2001:db8::1"), "ns.example.org": ("192.0.2.2",)},
    )
    table = Table(["jitsu.test"], authority, [parse_static("ns1.jitsu.test. 7 IN A 192.0.2.9")])
    table.replace(None, make_vm("ns2", "192.0.2.3"))
    table.publish(1)
    records = table.transfer(ZONE)
    assert records is not None
    found = list(records)
    assert len(found) == 2 + 3 + 1 + 1 + 1, "SOA twice, NS, the AAAA of ns1 from the glue, its own A, the VM's A"


def test_a_zone_is_given_as_it_was_when_the_transfer_began() -> None:
    vms = [make_vm(f"n{n}", f"127.9.{n // 250}.{n % 250 + 1}") for n in range(1000)]
    made, twin = with_secondary(*vms), with_secondary(*vms)
    expected = lines(given(twin))
    chance = random.Random(5)
    current, found = dict(enumerate(vms)), []
    for message in given(made):
        found += lines(iter([message]))
        for serial in range(60):  # changes, removals, and names that were not there
            n = chance.randrange(1200)
            old = current.pop(n, None)
            new = make_vm(f"n{n}", f"127.8.{n // 250}.{chance.randrange(250) + 1}") if chance.random() < 0.7 else None
            if new is not None:
                current[n] = new
            made.configure([VmChanged(old, new)], 2 + serial, 1.0)
    assert len(found) == len(expected)
    assert sorted(found) == sorted(expected)
    assert "127.8." in "".join(lines(given(made)))


def test_a_transfer_that_nobody_takes_any_further_is_over() -> None:
    made = with_secondary()
    for taken in (0, 1):
        for _ in range(MAX_TRANSFERS + 1):
            messages = given(made)
            for _ in range(taken):
                next(messages)
            del messages
    under_way = [given(made) for _ in range(MAX_TRANSFERS)]
    assert rcode(given(made)) == "SERVFAIL"
    under_way.clear()
    assert lines(given(made))


def test_who_may_not_have_a_zone_and_what_is_none_is_refused() -> None:
    query = dns.message.make_query("jitsu.test", "AXFR").to_wire()
    for made, asker, said in (
        (front(), ASKER, "REFUSED"),
        (with_secondary(), Client(CLIENT, bytes([192, 0, 2, 2]), False), "REFUSED"),
        (with_secondary(), Client(CLIENT, ASKER.address, True), "FORMERR"),
    ):
        answer = made.query(query, asker, 1.0)
        assert answer is not None
        assert rcode(iter([answer])) == said
    assert rcode(given(with_secondary(), zone="www.jitsu.test")) == "NOTAUTH"
    assert rcode(given(with_secondary(), zone="example.org")) == "NOTAUTH"


def test_ixfr_says_that_nothing_has_changed_or_all() -> None:
    made = with_secondary()
    made.configure([], 7, 1.0)
    assert len(lines(given(made, "IXFR", serial=7))) == 1
    assert len(lines(given(made, "IXFR", serial=8))) == 1, "the secondary's is newer"
    assert len(lines(given(made, "IXFR", serial=6))) == 4
    assert len(lines(given(made, "IXFR"))) == 4
    query = dns.message.make_query("jitsu.test", "IXFR").to_wire()
    answer = made.query(query, Client(CLIENT, ASKER.address, True), 1.0)
    assert answer is not None
    assert len(lines(iter([answer]))) == 1, "over UDP: the SOA, so that it asks over TCP"


def test_serials_go_round() -> None:
    assert is_older(None, 5)
    assert is_older(2**32 - 1, 3)
    assert not is_older(3, 3)
    assert not is_older(3, 2**32 - 1)
    assert serial_in(b"\0" * 12) is None
    assert serial_in(b"x") is None


def test_a_secondary_is_told_until_it_answers_and_then_no_more() -> None:
    made = notifier()
    made.handle(ZonesChanged([ZONE]), 10.0)
    made.handle(ZonesChanged([ZONE]), 10.1)
    assert made.tick(10.1) == []
    assert made.deadline() == 10.1 + GATHER_S
    (first,) = sent(made, 11.0)
    assert first.server == SECONDARY
    assert made.tick(11.0 + FIRST_RETRY_S - 0.1) == []
    (again,) = sent(made, 11.0 + FIRST_RETRY_S)
    reply = bytearray(again.data[: 12 + len(ZONE) + 4])
    reply[2] |= 0x80
    made.handle(NotifyAnswered(("192.0.2.2", 53), bytes(reply)), 0.0)
    made.handle(NotifyAnswered(SECONDARY, first.data), 0.0)
    made.handle(NotifyAnswered(SECONDARY, b""), 0.0)
    assert made.deadline() is not None, "none of these is the answer"
    made.handle(NotifyAnswered(SECONDARY, bytes(reply)), 0.0)
    assert made.deadline() is None


def test_a_secondary_that_never_answers_is_given_up() -> None:
    made, now = notifier(), 0.0
    actions: list[object] = []
    made.handle(ZonesChanged([ZONE]), now)
    while (due := made.deadline()) is not None:
        now = due
        actions += made.tick(now)
    assert [type(action) for action in actions] == [SendNotify] * MAX_TRIES + [LogUnheard]
    gone = notifier(None)
    gone.handle(ZonesChanged([ZONE]), 0.0)
    assert gone.tick(1.0) == []
    assert gone.deadline() is None


def test_many_zones_are_told_of_a_few_at_a_time() -> None:
    made = notifier()
    made.handle(ZonesChanged([to_wire(f"z{n}.test") for n in range(MAX_AT_ONCE + 5)]), 0.0)
    assert len(made.tick(1.0)) == MAX_AT_ONCE
    assert len(made.tick(1.2)) == 5


def test_neither_an_answer_nor_a_look_goes_over_the_zones_that_it_does_not_concern() -> None:
    def work(zones: int) -> tuple[int, int]:
        """Return how much work a look and an answer are."""
        made = notifier()
        made.handle(ZonesChanged([to_wire(f"z{n}.test") for n in range(zones)]), 0.0)
        told: list[Any] = []
        look = instructions(lambda: told.extend(made.tick(1.0)))
        answer = NotifyAnswered(SECONDARY, told[0].data[:2] + b"\xa4" + told[0].data[3:])
        return look, instructions(lambda: made.handle(answer, 1.0))

    assert work(10_000) == work(2 * MAX_AT_ONCE)


def test_each_of_many_zones_is_told_of_and_none_is_open_when_all_have_answered() -> None:
    asked: list[bytes] = []

    def soa(zone: bytes) -> bytes:
        asked.append(zone)
        return b"soa"

    made = Notifier([SECONDARY, ("192.0.2.2", 53)], soa, random.Random(1))
    made.handle(ZonesChanged([to_wire(f"z{n}.test") for n in range(5 * MAX_AT_ONCE)]), 0.0)
    told: list[object] = []
    now = 0.0
    for look in range(1, 11):
        due = made.deadline()
        assert due is not None
        now = max(now, due)
        told += made.tick(now)
        assert len(told) == len(asked) == look * MAX_AT_ONCE
    for tell in told:
        assert isinstance(tell, SendNotify)
        made.handle(NotifyAnswered(tell.server, tell.data[:2] + b"\xa4" + tell.data[3:]), 0.0)
    assert made.deadline() is None


def test_a_notify_is_one_for_other_programs_too() -> None:
    table = Table(["jitsu.test"], Authority())
    table.replace(None, make_vm())
    table.publish(9)
    made = Notifier([SECONDARY], table.soa_of, random.Random(1))
    made.handle(ZonesChanged([ZONE]), 0.0)
    (tell,) = sent(made, 1.0)
    message = dns.message.from_wire(tell.data)
    assert message.opcode() == dns.opcode.NOTIFY
    assert int(message.question[0].rdtype) == Type.SOA
    assert message.answer[0][0].serial == 9


def test_only_the_zones_that_a_change_is_about_are_told_of() -> None:
    table = Table(["jitsu.test", "other.test"], Authority(), notes_changes=True)
    one, other = make_vm(), make_vm("other", "127.0.1.2", dns="www.other.test")
    for vm in (one, other):
        table.replace(None, vm)
    table.publish(1)
    assert table.changed_zones() == {ZONE, to_wire("other.test")}
    table.replace(other, make_vm("other", "127.0.1.2", dns="www.other.test", ttl="7"))
    table.publish(2)
    assert table.changed_zones() == {to_wire("other.test")}
    table.publish(3)
    assert ZONE in table.changed_zones(), "what else the zones are made from"
