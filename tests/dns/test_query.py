"""The machine of a replica: what is answered when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dns.edns
import dns.message
import dns.rcode

from jitsu_dns.rules.access import Networks, ResponseLimit, SummonLimit
from jitsu_dns.rules.cookies import Cookies
from jitsu_dns.rules.message import Rcode
from jitsu_dns.rules.query import About, Asker, AskSummon, Front, ReportNow, Send
from jitsu_dns.rules.records import Authority, parse_static
from jitsu_dns.rules.table import Table
from jitsu_dns.rules.uses import Uses
from jitsu_protocol.errors import BackingOff, BootFailed, TimedOut, Unavailable
from jitsu_protocol.inventory import VmChanged
from jitsu_protocol.messages import Report, VmStatus
from jitsu_protocol.states import VmState
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.vm import VM

VM_WWW = make_vm(ttl="10")
CLIENT = ("192.0.2.1", 5000)
ADDRESS = bytes([192, 0, 2, 1])
NOBODY = Networks([])


class OneSender:
    def keys(self) -> list[bytes]:
        return [ADDRESS]

    def address(self, n: int) -> bytes:
        return ADDRESS


def front(
    *vms: VM,
    registered: bool = True,
    max_waiting: int = 10,
    lease: float = 300.0,
    summons: SummonLimit | None = None,
    responses: ResponseLimit | None = None,
    static: Sequence[str] = (),
) -> Front:
    made = Front(
        Table([], Authority(), map(parse_static, static)),
        Uses("dns-0", "i", lease),
        max_waiting,
        summons=summons or SummonLimit(NOBODY, NOBODY, 0, 1),
        responses=responses or ResponseLimit(0, NOBODY),
        cookies=Cookies(bytes(16)),
        about=About("jitsu", "dns-0"),
    )
    made.configure([VmChanged(None, vm) for vm in (vms or (VM_WWW,))], 1, 0.0)
    if registered:
        made.uses.acknowledged(0.0)
    return made


def state(made: Front, value: VmState, vm: VM = VM_WWW, now: float = 0.0, drain: str = "") -> None:
    made.state(VmStatus(uuid=vm.uuid, name=vm.name, state=value, drain=drain), now)


def ask(made: Front, now: float, name: str = "www.jitsu.test", id: int = 1, client: object = CLIENT) -> bytes | None:
    query = dns.message.make_query(name, "A", use_edns=0)
    query.id = id
    return asked(made, query, now, client)


def asked(made: Front, query: dns.message.Message, now: float = 1.0, client: object = CLIENT) -> bytes | None:
    """Ask as the wire does: what the warm path leaves is parsed."""
    (answer,) = made.warm([query.to_wire()], now, OneSender())
    return made.query(query.to_wire(), Asker(client, ADDRESS, True), now) if answer is None else answer


def report(made: Front, drains: list[str], now: float) -> Report:
    made.count(1000)
    return made.uses.report(drains, now)


def address_in(data: bytes | None) -> str:
    assert data is not None
    return str(dns.message.from_wire(data).answer[0][0].to_text())


def sent(made: Front) -> list[dns.message.Message]:
    return [dns.message.from_wire(action.data) for action in made.take() if isinstance(action, Send)]


def reason_of(message: dns.message.Message) -> str:
    assert message.rcode() == int(Rcode.SERVFAIL)
    option: Any = message.options[0]
    return f"{int(option.code)} {option.text}"


def test_a_warm_query_is_answered_at_once_and_asks_nobody() -> None:
    made = front()
    state(made, VmState.READY)
    assert address_in(ask(made, 1.0)) == "127.0.1.1"
    assert made.take() == []


def test_a_cold_query_waits_and_one_summon_serves_all() -> None:
    made = front()
    for id in range(3):
        assert ask(made, 1.0 + id / 10, id=id) is None
    assert made.take() == [AskSummon(VM_WWW.uuid, 1.2)]
    made.summoned(VM_WWW.uuid, 1.5)
    assert [message.id for message in sent(made)] == [0, 1, 2]
    assert made.next_deadline() is None


def test_a_packet_sent_again_waits_once() -> None:
    made = front()
    ask(made, 1.0)
    ask(made, 1.1)
    made.take()
    made.summoned(VM_WWW.uuid, 1.5)
    assert len(sent(made)) == 1


def test_g3_a_replica_that_is_not_registered_or_whose_lease_is_over_asks_vmd() -> None:
    made = front(registered=False)
    state(made, VmState.READY)
    assert ask(made, 1.0) is None
    made = front(lease=5.0)
    state(made, VmState.READY)
    assert ask(made, 4.9) is not None
    assert ask(made, 5.0) is None


def test_g3_a_draining_vm_is_not_answered_warm_and_reported_at_once() -> None:
    made = front()
    state(made, VmState.READY)
    state(made, VmState.DRAINING, drain="d1")
    assert made.take() == [ReportNow()]
    assert made.drains() == ["d1"]
    assert ask(made, 1.0) is None
    assert made.take() == [AskSummon(VM_WWW.uuid, 1.2)]
    state(made, VmState.READY, now=1.1)
    assert len(sent(made)) == 1


def test_reasons_become_extended_errors() -> None:
    for error, text in (
        (BootFailed("www: no memory"), "0 boot failed: www: no memory"),
        (BackingOff("www: no memory", retry_after=2.0), "13 www: no memory; next try in 2.0 s"),
        (Unavailable("www: busy"), "14 www: busy"),
    ):
        made = front()
        ask(made, 1.0)
        made.take()
        made.refused(VM_WWW.uuid, error, 1.1)
        assert [reason_of(message) for message in sent(made)] == [text]


def test_g2_max_wait_is_kept_and_what_is_said_depends_on_what_vmd_said() -> None:
    for value, vm, expected in (
        (VmState.BOOTING, VM_WWW, "127.0.1.1"),
        (VmState.BOOTING, make_vm(on_timeout="servfail"), "14 www is still booting"),
        (VmState.OFF, VM_WWW, "23 www: the VM daemon does not answer"),
    ):
        made = front(vm)
        state(made, value, vm)
        ask(made, 1.0)
        made.take()
        assert made.next_deadline() == 2.2
        made.passed(2.19)
        assert made.take() == []
        made.passed(2.2)
        (message,) = sent(made)
        assert (message.answer[0][0].to_text() if message.answer else reason_of(message)) == expected


def test_those_who_came_later_get_a_summon_of_their_own_when_the_first_times_out() -> None:
    made = front()
    ask(made, 1.0, id=1)
    ask(made, 2.0, id=2)
    made.take()
    made.passed(2.2)
    assert len(sent(made)) == 1
    made.refused(VM_WWW.uuid, TimedOut("x"), 2.2)
    (again,) = made.take()
    assert isinstance(again, AskSummon)
    assert round(again.timeout, 6) == 1.0


def test_too_many_that_wait_are_refused_at_once() -> None:
    made = front(max_waiting=2)
    assert [ask(made, 1.0, id=id) is None for id in range(3)] == [True, True, False]
    made.summoned(VM_WWW.uuid, 1.1)
    assert ask(made, 1.2, id=9) is None


def test_a_closed_connection_is_forgotten() -> None:
    made = front()
    ask(made, 1.0)
    made.take()
    made.gone(CLIENT)
    made.summoned(VM_WWW.uuid, 1.1)
    assert made.take() == []


def test_what_is_configured_otherwise_holds_for_those_who_wait() -> None:
    made = front()
    ask(made, 1.0)
    moved = make_vm(address="127.0.1.9")
    made.configure([VmChanged(VM_WWW, moved)], 2, 1.0)
    made.take()
    made.summoned(VM_WWW.uuid, 1.1)
    assert sent(made)[0].answer[0][0].to_text() == "127.0.1.9"
    ask(made, 2.0)
    made.configure([VmChanged(moved, None)], 3, 2.0)
    assert "configured no more" in reason_of(sent(made)[0])


def test_other_edns_versions_classes_and_zones_are_refused() -> None:
    made = front()
    version_1 = dns.message.make_query("www.jitsu.test", "A", use_edns=1)
    assert dns.message.from_wire(asked(made, version_1) or b"").rcode() == 16
    chaos = dns.message.make_query("www.jitsu.test", "A", rdclass="CH")
    assert dns.message.from_wire(asked(made, chaos) or b"").rcode() == 5
    assert dns.message.from_wire(ask(made, 1.0, "www.example.org") or b"").rcode() == 5
    assert made.take() == []


def test_uses_are_kept_until_they_are_acknowledged_and_counted_once() -> None:
    made = front()
    state(made, VmState.READY)
    ask(made, 1.0)
    ask(made, 2.0)
    first = report(made, ["d1"], 3.0)
    assert [(use.count, use.age_s) for use in first.uses] == [(2, 1.0)]
    ask(made, 3.5)
    again = report(made, ["d2"], 4.0)
    assert (again.batch, again.drains, [use.count for use in again.uses]) == (first.batch, ["d1"], [2])
    made.uses.acknowledged(4.0)
    after = report(made, ["d2"], 5.0)
    assert (after.batch, after.drains, [use.count for use in after.uses]) == (first.batch + 1, ["d2"], [1])


def test_g3_an_answer_to_one_that_waited_counts_from_when_it_was_given() -> None:
    made = front()
    ask(made, 1.0)
    made.summoned(VM_WWW.uuid, 2.0)
    (use,) = report(made, [], 2.5).uses
    assert (use.count, use.age_s) == (1, 0.5)
