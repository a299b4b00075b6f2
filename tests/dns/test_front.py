"""The machine of a replica: what is answered when."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode

from jitsu_dns.rules import warm
from jitsu_dns.rules.cold import EARLY_TTL_S
from jitsu_dns.rules.events import ReportDrain, SendResponse, SummonVm
from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.forward import Forwarder
from jitsu_dns.rules.message import Rcode
from jitsu_dns.rules.rates import ResponseLimit, SummonLimit
from jitsu_dns.rules.states import UNDER_WAY
from jitsu_dns.rules.usage import MAX_USES
from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.errors import BackingOff, BootFailed, TimedOut, Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.rates import Networks
from tests.support.front import ADDRESS, CLIENT, NOBODY, VM_WWW, address_in, ask, asked, front, report, state
from tests.support.vms import make_vm

if TYPE_CHECKING:
    import pytest

    from jitsu_protocol.model.vm import VM
    from tests.support.front import DrivenFront


def sent(made: DrivenFront) -> list[dns.message.Message]:
    return [dns.message.from_wire(action.data) for action in made.take() if isinstance(action, SendResponse)]


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
    assert made.take() == [SummonVm(VM_WWW.uuid, 1.2)]
    made.summoned(VM_WWW.uuid, 1.5)
    assert [message.id for message in sent(made)] == [0, 1, 2]
    assert made.deadline() is None


def test_g1_queries_for_several_names_of_one_vm_are_one_summon() -> None:
    names = ["a.jitsu.test", "b.jitsu.test"]
    vm = from_config({"name": ["www"], "dns": names, "ip": ["127.0.1.1"]}, {})
    made = front(vm)
    for name in names:
        assert ask(made, 1.0, name=name) is None
    assert made.take() == [SummonVm(vm.uuid, 1.2)]
    made.summoned(vm.uuid, 1.5)
    assert len(sent(made)) == 2


def ttl_of(message: dns.message.Message) -> int:
    return int(message.answer[-1].ttl)


def test_an_answer_that_is_given_while_the_vm_starts_is_not_kept_by_caches() -> None:
    made = front()
    ask(made, 1.0)
    made.take()
    made.summoned(VM_WWW.uuid, 1.003, armed=True)
    (early,) = sent(made)
    assert (early.answer[0][0].to_text(), ttl_of(early)) == ("127.0.1.1", EARLY_TTL_S)
    ask(made, 1.1, id=2)
    state(made, VmState.READY)
    (answer,) = sent(made)
    assert ttl_of(answer) == VM_WWW.ttl, "it is ready now"


def test_a_guest_that_still_has_another_address_than_is_configured_is_not_answered_for() -> None:
    made = front()
    for addresses, is_warm in ((["127.0.9.9"], False), (["127.0.1.1"], True), ([], True)):
        status = VmStatus(uuid=VM_WWW.uuid, name="www", state=VmState.READY, addresses=addresses)
        made.state(status, 1.0)
        assert (ask(made, 1.0, id=1) is not None) is is_warm, addresses
        made.take()
        made.refused(VM_WWW.uuid, TimedOut("no"), 9.0)


def test_an_answer_given_because_max_wait_is_over_is_not_kept_by_caches_either() -> None:
    made = front()
    state(made, VmState.BOOTING)
    ask(made, 1.0)
    made.take()
    made.passed(2.3)
    (late,) = sent(made)
    assert ttl_of(late) == EARLY_TTL_S


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


def test_g3_without_a_lease_a_query_that_waits_is_answered_by_vmds_reply_and_not_because_the_vm_is_ready() -> None:
    made = front(registered=False)
    state(made, VmState.OFF)
    assert ask(made, 1.0) is None
    state(made, VmState.READY)
    assert sent(made) == [], "vmd may not have had the summon"
    made.summoned(VM_WWW.uuid, 1.2)
    assert len(sent(made)) == 1


def test_g3_a_draining_vm_is_not_answered_warm_and_reported_at_once() -> None:
    made = front()
    state(made, VmState.READY)
    state(made, VmState.DRAINING, drain="d1")
    assert made.take() == [ReportDrain()]
    assert made.drains() == ["d1"]
    assert ask(made, 1.0) is None
    assert made.take() == [SummonVm(VM_WWW.uuid, 1.2)]
    state(made, VmState.READY, now=1.1)
    assert len(sent(made)) == 1


def test_reasons_become_extended_errors() -> None:
    for error, text in (
        (BootFailed("www: no memory"), "0 boot failed: www: no memory"),
        (BackingOff("www: no memory", retry_after=2.0), "13 www: no memory; a query can start it again in 2.0 s"),
        (Unavailable("www: busy"), "14 www: busy"),
    ):
        made = front()
        ask(made, 1.0)
        made.take()
        made.refused(VM_WWW.uuid, error, 1.1)
        assert [reason_of(message) for message in sent(made)] == [text]


def test_g2_max_wait_is_kept_and_what_is_said_depends_on_what_vmd_said() -> None:
    for value, vm, unheard, expected in (
        (VmState.BOOTING, VM_WWW, [], "127.0.1.1"),
        (VmState.BOOTING, make_vm(on_timeout="servfail"), [], "14 www is still booting"),
        (VmState.OFF, VM_WWW, [], "23 www: the VM daemon does not answer"),
        (VmState.READY, VM_WWW, [""], "23 www: the VM daemon does not answer"),
        (VmState.READY, VM_WWW, [], "23 www: the VM daemon does not answer"),
        (VmState.DRAINING, VM_WWW, [], "23 www: the VM daemon does not answer"),
    ):
        made = front(vm, registered=False)
        made.states.is_heard = lambda host, unheard=unheard: host not in unheard  # type: ignore[misc]
        state(made, value, vm)
        ask(made, 1.0)
        made.take()
        assert made.deadline() == 2.2
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
    assert isinstance(again, SummonVm)
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
    assert "no longer configured" in reason_of(sent(made)[0])


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
    made.usage.acknowledged(4.0)
    after = report(made, ["d2"], 5.0)
    assert (after.batch, after.drains, [use.count for use in after.uses]) == (first.batch + 1, ["d2"], [1])


def test_g3_an_answer_to_one_that_waited_counts_from_when_it_was_given() -> None:
    made = front()
    ask(made, 1.0)
    made.summoned(VM_WWW.uuid, 2.0)
    (use,) = report(made, [], 2.5).uses
    assert (use.count, use.age_s) == (1, 0.5)


def test_g3_a_use_is_reported_with_the_longest_ttl_that_was_given_out() -> None:
    long, short = make_vm(ttl="30"), make_vm(ttl="1")
    made = front(long)
    state(made, VmState.READY)
    ask(made, 1.0)
    made.configure([VmChanged(long, short)], 2, 1.1)
    state(made, VmState.READY)
    ask(made, 1.2)
    first = report(made, [], 2.0)
    assert ([use.count for use in first.uses], first.ttls) == ([2], [30])
    made.usage.acknowledged(2.0)
    ask(made, 3.0)
    assert report(made, [], 4.0).ttls == [1]


# --- several VMs of one name ---


def shared(mode: str, *extra: VM) -> tuple[DrivenFront, list[VM]]:
    vms = [make_vm(f"v{n}", f"127.0.1.{n}", dns="www.jitsu.test", summon=mode, ttl="10") for n in range(3)]
    return front(*vms, *extra), vms


def addresses_in(data: bytes | None) -> list[str]:
    assert data is not None
    return [rdata.to_text() for rdata in dns.message.from_wire(data).answer[0]]


def test_all_that_are_ready_are_answered_another_one_first_each_time() -> None:
    made, vms = shared("one")
    state(made, VmState.READY, vms[0])
    state(made, VmState.READY, vms[2])
    seen = [tuple(addresses_in(ask(made, 1.0))) for _ in range(6)]
    assert set(seen) == {("127.0.1.0", "127.0.1.2"), ("127.0.1.2", "127.0.1.0")}
    assert seen[0] != seen[1]
    state(made, VmState.READY, vms[1])
    assert sorted(addresses_in(ask(made, 2.0))) == ["127.0.1.0", "127.0.1.1", "127.0.1.2"]
    state(made, VmState.DRAINING, vms[0], drain="d")
    assert sorted(addresses_in(ask(made, 3.0))) == ["127.0.1.1", "127.0.1.2"]


def test_g3_each_vm_whose_address_was_told_counts_as_used() -> None:
    made, vms = shared("one")
    state(made, VmState.READY, vms[0])
    state(made, VmState.READY, vms[1])
    for now in (1.0, 2.0, 3.0):
        ask(made, now)
    uses = {use.vm: (use.count, use.age_s) for use in report(made, [], 4.0).uses}
    assert uses == {vms[0].uuid: (3, 1.0), vms[1].uuid: (3, 1.0)}


def test_g3_without_a_lease_only_the_vm_of_which_vmd_has_spoken_is_answered() -> None:
    made, vms = shared("one")
    for vm in vms:
        state(made, VmState.READY, vm)
    assert ask(made, 301.0) is None, "the lease is over"
    (summon,) = made.take()
    assert isinstance(summon, SummonVm)
    made.summoned(summon.vm, 301.1)
    (answer,) = sent(made)
    address = next(str(vm.addresses[0]) for vm in vms if vm.uuid == summon.vm)
    assert [rdata.to_text() for rdata in answer.answer[0]] == [address]


def test_g3_without_a_lease_a_reply_of_vmd_that_comes_late_is_asked_for_again() -> None:
    made = front(make_vm(max_wait="4"), registered=False)
    assert ask(made, 1.0) is None
    made.take()
    made.summoned(VM_WWW.uuid, 2.1)
    assert made.take() == [SummonVm(VM_WWW.uuid, 2.9)], "vmd may have replied long before, and counts the TTL from then"
    made.summoned(VM_WWW.uuid, 2.3)
    assert len(sent(made)) == 1
    leased = front(make_vm(max_wait="4"))
    assert ask(leased, 1.0) is None
    leased.take()
    leased.summoned(VM_WWW.uuid, 2.1)
    assert len(sent(leased)) == 1, "the reaper counts on this replica"


def test_a_cold_query_summons_one_and_the_next_if_that_fails() -> None:
    made, vms = shared("one")
    for vm in vms:
        state(made, VmState.OFF, vm)
    assert ask(made, 1.0) is None
    (first,) = made.take()
    assert isinstance(first, SummonVm)
    made.refused(first.vm, BootFailed("no memory"), 1.1)
    (second,) = made.take()
    assert isinstance(second, SummonVm)
    assert second.vm != first.vm
    assert round(second.timeout, 6) == 1.1
    made.summoned(second.vm, 1.5)
    (answer,) = sent(made)
    address = next(str(vm.addresses[0]) for vm in vms if vm.uuid == second.vm)
    assert [rdata.to_text() for rdata in answer.answer[0]] == [address]


def test_the_last_reason_is_told_when_none_of_them_boots() -> None:
    made, _ = shared("one")
    ask(made, 1.0)
    for number in range(3):
        (summon,) = made.take()
        assert isinstance(summon, SummonVm)
        made.refused(summon.vm, BootFailed(f"reason {number}"), 1.1)
    assert [reason_of(message) for message in sent(made)] == ["0 boot failed: reason 2"]


def test_the_one_that_boots_already_is_not_joined_by_another() -> None:
    made, vms = shared("one")
    state(made, VmState.FAILED, vms[0])
    state(made, VmState.BOOTING, vms[1])
    ask(made, 1.0)
    assert made.take() == [SummonVm(vms[1].uuid, 1.2)]


def test_a_name_that_asks_for_all_is_answered_when_all_are_there_or_have_failed() -> None:
    made, vms = shared("all")
    ask(made, 1.0)
    assert {action.vm for action in made.take() if isinstance(action, SummonVm)} == {vm.uuid for vm in vms}
    made.summoned(vms[0].uuid, 1.1)
    assert made.take() == []
    made.refused(vms[1].uuid, BootFailed("no memory"), 1.2)
    assert made.take() == []
    made.summoned(vms[2].uuid, 1.3)
    (answer,) = sent(made)
    assert sorted(rdata.to_text() for rdata in answer.answer[0]) == ["127.0.1.0", "127.0.1.2"]


def test_a_vm_that_goes_leaves_the_name_to_the_others() -> None:
    made, vms = shared("one")
    state(made, VmState.READY, vms[0])
    state(made, VmState.READY, vms[1])
    ask(made, 1.0)
    made.configure([VmChanged(vms[0], None)], 2, 1.0)
    assert addresses_in(ask(made, 1.1)) == ["127.0.1.1"]


def test_only_vms_with_such_an_address_are_summoned() -> None:
    six = make_vm("six", "2001:db8::1", dns="www.jitsu.test", summon="all")
    four = make_vm("four", "127.0.1.1", dns="www.jitsu.test", summon="all")
    made = front(six, four)
    asked(made, dns.message.make_query("www.jitsu.test", "AAAA"))
    assert [action.vm for action in made.take() if isinstance(action, SummonVm)] == [six.uuid]


# --- who may, and how much ---


def test_g10_who_may_not_summon_is_refused_and_may_join_and_ask_what_is_warm() -> None:
    other = make_vm("other", "127.0.1.2")
    made = front(VM_WWW, other, summons=SummonLimit(Networks(["198.51.100.0/24"]), NOBODY, 0, 1))
    refused = dns.message.from_wire(ask(made, 1.0) or b"")
    assert (refused.rcode(), made.take()) == (5, [])
    option: Any = refused.options[0]
    assert (int(option.code), "may not start" in option.text) == (18, True)
    query = dns.message.make_query("www.jitsu.test", "A").to_wire()
    assert made.query(query, Client("friend", bytes([198, 51, 100, 1]), True), 1.0) is None
    assert ask(made, 1.1) is None
    assert report(made, [], 2.0).uses[0].count == 2
    state(made, VmState.READY, other)
    assert ask(made, 1.2, "other.jitsu.test") is not None


def test_g10_a_network_starts_no_more_than_its_share() -> None:
    vms = [make_vm(f"n{n}", f"127.0.3.{n}") for n in range(10)]
    made = front(*vms, summons=SummonLimit(NOBODY, NOBODY, rate=1, burst=3))
    answers = [ask(made, 1.0, f"n{n}.jitsu.test", id=n) for n in range(10)]
    assert [answer is None for answer in answers] == [True] * 3 + [False] * 7
    assert len(made.take()) == 3


def test_a_query_for_a_vm_that_runs_starts_none_though_it_asks_vmd() -> None:
    for summons in (
        SummonLimit(NOBODY, NOBODY, rate=1, burst=1),
        SummonLimit(Networks(["198.51.100.0/24"]), NOBODY, 0, 1),
    ):
        made = front(registered=False, summons=summons)
        for value in UNDER_WAY:
            state(made, value)
            for n in range(3):
                assert ask(made, 1.0, id=n) is None
                made.summoned(VM_WWW.uuid, 1.0)
                assert len(sent(made)) == 1


def test_g10_limited_warm_answers_are_dropped_or_truncated_whatever_path_they_take() -> None:
    made = front(responses=ResponseLimit(2, NOBODY))
    state(made, VmState.READY)
    answers = [ask(made, 1.0) for _ in range(6)]
    assert [len(answer or b"") > 50 for answer in answers] == [True, True, False, False, False, False]
    assert answers[2] == answers[4] == b""
    cut = dns.message.from_wire(answers[3] or b"")
    assert (cut.flags & dns.flags.TC != 0, cut.answer, len(cut.question)) == (True, [], 1)
    cookied = dns.message.make_query("www.jitsu.test", "A", options=[dns.edns.CookieOption(bytes(8), b"")])
    first = dns.message.from_wire(asked(made, cookied, 60.0) or b"")
    cookie: Any = first.options[0]
    proven = dns.message.make_query(
        "www.jitsu.test", "A", options=[dns.edns.CookieOption(cookie.client, cookie.server)]
    )
    assert [len(asked(made, proven, 60.0) or b"") > 80 for _ in range(10)] == [True] * 10
    nobody = [ask(made, 90.0, "nobody.jitsu.test") for _ in range(4)]
    assert [bool(answer) for answer in nobody] == [True, True, False, True]


# --- the warm path ---


def test_a_packet_seen_before_is_answered_byte_for_byte_until_something_changes() -> None:
    made = front(static=["www.jitsu.test. 60 IN TXT x"])
    state(made, VmState.READY)
    wire = dns.message.make_query("WwW.jitsu.test", "A", use_edns=0).to_wire()
    assert made.warm([wire], 1.0) == [None]
    slow = made.query(wire, Client(CLIENT, ADDRESS, True), 1.0)
    assert made.warm([wire, b"\1\2" + wire[2:]], 1.0) == [slow, b"\1\2" + (slow or b"")[2:]]
    state(made, VmState.DRAINING, drain="d")
    assert made.warm([wire], 1.0) == [None]
    state(made, VmState.READY)
    made.query(wire, Client(CLIENT, ADDRESS, True), 1.0)
    moved = make_vm(address="127.0.1.9")
    made.configure([VmChanged(VM_WWW, moved)], 2, 1.0)
    assert made.warm([wire], 1.0) == [None]
    assert address_in(made.query(wire, Client(CLIENT, ADDRESS, True), 1.0)) == "127.0.1.9"
    for other in (b"", b"\0", wire[:20], wire + b"\0"):
        assert made.warm([other], 1.0) == [None]


def test_a_name_of_its_own_takes_over_from_a_wildcard_at_once() -> None:
    made = front(wild := make_vm("wild", "127.0.1.1", dns="*.jitsu.test"))
    state(made, VmState.READY, wild)
    assert address_in(ask(made, 1.0, "x.jitsu.test")) == address_in(ask(made, 1.0, "x.jitsu.test")) == "127.0.1.1"
    own = make_vm("own", "127.0.1.2", dns="x.jitsu.test")
    made.configure([VmChanged(None, own)], 2, 1.0)
    assert ask(made, 1.0, "x.jitsu.test") is None
    state(made, VmState.READY, own)
    assert address_in(ask(made, 1.0, "x.jitsu.test")) == "127.0.1.2"


def test_what_is_kept_for_the_warm_path_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "MAX_PACKETS_KEPT", 5)
    made = front()
    state(made, VmState.READY)
    for payload in range(600, 620):
        asked(made, dns.message.make_query("www.jitsu.test", "A", payload=payload))
    assert made.packets_kept == 5


def test_g3_a_drain_is_acknowledged_only_when_all_earlier_use_was_told() -> None:
    names = [f"n{n}.jitsu.test" for n in range(MAX_USES + 10)]
    vm = from_config({"name": ["many"], "dns": names, "ip": ["127.0.1.1"]}, {})
    made = front(vm)
    state(made, VmState.READY, vm)
    for name in names:
        ask(made, 1.0, name)
    state(made, VmState.DRAINING, vm, drain="d1")
    first = report(made, made.drains(), 2.0)
    assert (len(first.uses), first.drains) == (MAX_USES, [])
    made.usage.acknowledged(2.0)
    second = report(made, made.drains(), 2.1)
    assert (len(second.uses), second.drains) == (10, ["d1"])
    made.usage.acknowledged(2.1)
    assert report(made, made.drains(), 2.2).drains == ["d1"]


# --- what the server says of itself ---


def chaos(made: DrivenFront, name: str) -> dns.message.Message:
    return dns.message.from_wire(asked(made, dns.message.make_query(name, "TXT", rdclass="CH")) or b"")


def test_it_says_who_it_is_to_those_who_ask() -> None:
    made = front()
    assert chaos(made, "version.bind").answer[0].to_text() == 'version.bind. 0 CH TXT "jitsu"'
    assert chaos(made, "id.server").answer[0].to_text() == 'id.server. 0 CH TXT "dns-0"'
    assert chaos(made, "authors.bind").rcode() == 5
    nsid = dns.message.make_query(
        "nobody.jitsu.test", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")]
    )
    option: Any = dns.message.from_wire(asked(made, nsid) or b"").options[0]
    assert option.to_wire() == b"dns-0"


# --- names of others ---


def test_g10_it_forwards_for_those_only_for_whom_that_is_done() -> None:
    forwarder = Forwarder([("192.0.2.53", 53)], Networks(["192.0.2.0/24"]), random.Random(1))
    made = front(forward=forwarder)
    wanted = dns.message.make_query("www.example.org", "A")
    iterative = dns.message.make_query("www.example.org", "A")
    iterative.flags = 0
    stranger = Client("stranger", bytes([198, 51, 100, 1]), True)
    refused = [made.query(wanted.to_wire(), stranger, 1.0), asked(made, iterative)]
    assert [dns.message.from_wire(answer or b"").rcode() for answer in refused] == [5, 5]
    assert made.take() == []
    assert asked(made, wanted) is None
    assert len(made.take()) == 1
    assert asked(made, dns.message.make_query("nobody.jitsu.test", "A")) is not None  # held: nobody else is asked
    assert made.take() == []


def test_a_snapshot_of_one_host_says_nothing_of_another_and_a_vm_that_moved_is_where_it_came() -> None:
    near, far = make_vm(), make_vm("far", "127.0.1.2", host="beta")
    made = front(near, far)

    def says(vm: VM, value: VmState, host: str, *, gone: bool = False) -> None:
        made.state(VmStatus(uuid=vm.uuid, name=vm.name, state=value, host=host), 0.0, gone=gone)

    says(near, VmState.READY, "")
    says(far, VmState.READY, "beta")
    made.all_states([], 0.0, "")
    assert ask(made, 1.0) is None
    assert address_in(ask(made, 1.0, "far.jitsu.test")) == "127.0.1.2"
    says(far, VmState.READY, "")
    says(far, VmState.OFF, "beta", gone=True)
    assert address_in(ask(made, 1.0, "far.jitsu.test")) == "127.0.1.2", "the old host's farewell came after"
    says(far, VmState.OFF, "", gone=True)
    assert ask(made, 1.0, "far.jitsu.test") is None


def test_only_a_client_that_is_exempt_from_limits_is_told_the_states_of_vms_and_starts_none() -> None:
    made = front(responses=ResponseLimit(0, Networks(["192.0.2.1"])))
    state(made, VmState.BOOTING)
    assert chaos(made, "www.jitsu.test").answer[0][0].to_text() == '"www booting"'
    assert chaos(made, "nobody.jitsu.test").rcode() == 5
    assert made.take() == []
    assert chaos(front(), "www.jitsu.test").rcode() == 5
