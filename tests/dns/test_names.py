"""What a replica answers while it does not know all names yet: never that a name does not exist which it may hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_dns.rules.events import SendResponse
from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.message import Rcode, Type, to_wire
from jitsu_dns.rules.names import MAX_AT_ONCE, Known, Names
from jitsu_dns.rules.records import Authority
from jitsu_dns.rules.table import Table
from jitsu_dns.rules.unknown import HOLD_S
from jitsu_dns.wires.names_file import NamesFile, Remembered
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM_ROOT, to_tree
from tests.dns.test_table import table
from tests.support.examples import examples
from tests.support.front import ADDRESS, CLIENT, ask, front, state
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.model.vm import VM
    from tests.support.front import DrivenFront

WWW = make_vm(ttl="10", alias="w.jitsu.test")
OTHER = make_vm("other", "127.0.1.2")
WILD = make_vm("wild", "127.0.1.3", dns="*.p.jitsu.test")
DEEP = make_vm("deep", "127.0.1.4", dns="a.b.p.jitsu.test")
ALL = (WWW, OTHER, WILD, DEEP)


def leaves_of(*vms: VM) -> dict[str, str]:
    return {path: value for vm in vms for path, value in to_tree(vm).items()}


def remembered(*vms: VM) -> dict[str, dict[str, str]]:
    return {
        vm.uuid: {path.removeprefix(f"{VM_ROOT}/{vm.uuid}/"): value for path, value in to_tree(vm).items()}
        for vm in vms
    }


def told(made: DrivenFront, *vms: VM, now: float = 0.0, serial: int = 7) -> None:
    """Tell all that the store has."""
    made.names.begin_reset()
    made.names.take(leaves_of(*vms))
    made.names.end_reset()
    made.told(serial, now)


def many(count: int) -> list[VM]:
    return [make_vm(f"n{n}", f"127.9.{n // 250}.{n % 250 + 1}") for n in range(count)]


def empty_front(static: tuple[str, ...] = ()) -> DrivenFront:
    return front(names=Names(), static=static, vms_are_told=False)


def rcodes(made: DrivenFront) -> list[int]:
    return [dns.message.from_wire(each.data).rcode() for each in made.take() if isinstance(each, SendResponse)]


def reason(data: bytes) -> str:
    return str(dns.message.from_wire(data).options[0])


def test_g5_before_the_store_is_heard_no_name_is_denied() -> None:
    made = empty_front()
    for n, name in enumerate(("www.jitsu.test", "nosuch.jitsu.test", "www.example.org", "jitsu.test")):
        assert ask(made, 1.0 + n / 100, name, id=n) is None
    assert rcodes(made) == []
    assert made.deadline() == 1.0 + HOLD_S
    made.passed(1.0 + HOLD_S + 0.02)
    (first, second, third) = [each for each in made.take() if isinstance(each, SendResponse)]
    for each in (first, second, third):
        assert int(dns.message.from_wire(each.data).rcode()) == Rcode.SERVFAIL
        assert "does not know all names yet" in reason(each.data)
    assert made.deadline() == 1.03 + HOLD_S


def test_a_question_that_is_held_is_answered_as_soon_as_the_store_is_heard() -> None:
    made = empty_front()
    state(made, VmState.READY, WWW)
    assert ask(made, 1.0) is None
    assert ask(made, 1.0, "nosuch.jitsu.test", id=2) is None
    assert ask(made, 1.0, "www.example.org", id=3) is None
    told(made, *ALL, now=1.1)
    assert rcodes(made) == [Rcode.NOERROR, Rcode.NXDOMAIN, Rcode.REFUSED]


def test_a_store_without_any_vm_is_one_that_nobody_has_configured_yet() -> None:
    made = empty_front(static=('t.jitsu.test. 60 IN TXT "x"',))
    told(made, now=1.0, serial=1)
    assert ask(made, 1.0) is None, "jitsu up commits its VMs a moment later"
    answered = made.query(dns.message.make_query("t.jitsu.test", "TXT").to_wire(), Client(CLIENT, ADDRESS, True), 1.0)
    assert answered is not None, "what is configured beside the VMs is known"
    state(made, VmState.READY, WWW)
    made.names.apply(leaves_of(*ALL).items())
    made.told(2, 1.5)
    assert rcodes(made) == [Rcode.NOERROR]
    made.names.apply(dict.fromkeys(leaves_of(*ALL)).items())
    made.told(3, 2.0)
    gone = ask(made, 2.0)
    assert gone is not None
    assert int(dns.message.from_wire(gone).rcode()) == Rcode.NXDOMAIN, "somebody has removed them all"


def test_a_name_is_answered_before_all_vms_are_made_and_none_is_denied_that_one_of_them_may_have() -> None:
    made = empty_front()
    vms = many(200)
    told(made, *vms, *ALL, now=1.0)
    assert made.names.left == 204
    state(made, VmState.READY, vms[150])
    assert ask(made, 1.0, "n150.jitsu.test") is not None
    assert ask(made, 1.0, "w.jitsu.test", id=5) is None, "cold: its VM is off"
    assert [type(action).__name__ for action in made.take()] == ["SummonVm"]
    nobody = ask(made, 1.0, "nosuch.jitsu.test", id=6)
    assert nobody is not None
    assert int(dns.message.from_wire(nobody).rcode()) == Rcode.NXDOMAIN, "no VM has it, made or not"
    assert ask(made, 1.0, "b.p.jitsu.test", id=7) is None, "it may exist because of a name below it"
    rounds = 1
    while made.make_some(1.1):
        rounds += 1
    assert rounds == -(-202 // MAX_AT_ONCE)
    assert made.names.is_complete
    assert rcodes(made) == [Rcode.NOERROR]


def test_what_is_remembered_is_answered_for_when_the_store_stays_silent_and_nothing_is_denied() -> None:
    made = empty_front()
    made.remember(remembered(*ALL), 1.0)
    state(made, VmState.READY, WWW)
    assert ask(made, 1.0) is None
    assert ask(made, 1.0, "nosuch.jitsu.test", id=2) is None
    assert made.deadline() == 1.3
    made.passed(1.3)
    assert rcodes(made) == [Rcode.NOERROR]
    assert ask(made, 1.4, id=3) is not None
    made.names.confirm()
    made.told(7, 1.5)
    assert rcodes(made) == [Rcode.NXDOMAIN]


def test_what_is_remembered_wrongly_is_not_answered_once_the_store_has_said_so() -> None:
    made = empty_front()
    made.remember(remembered(WWW, OTHER), 1.0)
    moved = make_vm(address="127.0.1.77", ttl="10")
    state(made, VmState.READY, WWW)
    assert ask(made, 1.0) is None
    changes = {**dict.fromkeys(leaves_of(WWW, OTHER)), **leaves_of(moved)}
    made.names.apply(changes.items())
    made.names.confirm()
    made.told(8, 1.1)
    (sent,) = [each for each in made.take() if isinstance(each, SendResponse)]
    assert dns.message.from_wire(sent.data).answer[0][0].to_text() == "127.0.1.77"
    gone = ask(made, 1.2, "other.jitsu.test", id=9)
    assert gone is not None
    assert int(dns.message.from_wire(gone).rcode()) == Rcode.NXDOMAIN


def test_g3_a_replica_that_is_back_asks_vmd_until_the_reaper_has_heard_of_it() -> None:
    made = front(names=Names(), vms_are_told=False, registered=False)
    made.remember(remembered(*ALL), 0.9)
    made.names.confirm()
    made.told(7, 1.0)
    state(made, VmState.READY, WWW, now=1.0)
    assert ask(made, 1.0) is None
    assert [type(action).__name__ for action in made.take()] == ["SummonVm"]
    made.usage.acknowledged(1.0)
    assert ask(made, 1.1, id=2) is not None


def test_too_many_held_questions_are_refused_at_once_and_a_client_that_left_is_forgotten() -> None:
    made = front(names=Names(), vms_are_told=False, max_waiting=2)
    assert ask(made, 1.0, id=1) is None
    assert ask(made, 1.0, id=1) is None, "the same packet again"
    assert ask(made, 1.0, id=2, client="other") is None
    refused = ask(made, 1.0, id=3)
    assert refused is not None
    assert int(dns.message.from_wire(refused).rcode()) == Rcode.SERVFAIL
    made.gone(CLIENT)
    assert ask(made, 1.0, id=4) is None


NAMES = ["a", "b", "*.p", "x.p", "a.b.p", "b.p", "*.b.p", "c"]
QUESTIONS = [*NAMES, "y.p", "y.b.p", "z.y.p", "p", "nosuch", "w.a", "w.c"]


@functools.cache
def vm_named(n: int) -> VM:
    name = f"{NAMES[n]}.jitsu.test"
    alias = {"alias": f"w.{name}"} if n in (0, 7) else {}
    return make_vm(f"vm{n}", f"127.0.2.{n + 1}", dns=name, **alias)


@settings(max_examples=examples(300))
@given(
    there=st.lists(st.sampled_from(range(len(NAMES))), unique=True),
    asked=st.lists(st.sampled_from(range(len(QUESTIONS))), max_size=6),
)
def test_no_answer_that_is_given_early_differs_from_the_one_given_late(there: list[int], asked: list[int]) -> None:
    vms = [vm_named(n) for n in there]
    complete = table(*vms)
    names = Names()
    names.begin_reset()
    names.take(leaves_of(*vms))
    names.end_reset()
    if not vms:
        names.known = Known.TOLD
    early = Table(["jitsu.test"], Authority())
    for n in asked:
        key = to_wire(f"{QUESTIONS[n].replace('*', 'star')}.jitsu.test")
        for change in names.make(names.wanted(key)):
            early.replace(change.old, change.new)
        early.publish(7)
        if not names.may_change(key, early.stands_for(key)):
            ours, theirs = early.find(key, Type.A), complete.find(key, Type.A)
            assert type(ours) is type(theirs)
            assert getattr(ours, "rcode", None) == getattr(theirs, "rcode", None)


async def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = NamesFile(tmp_path / "sub" / "dns-0.names")
    assert file.read() is None
    known = remembered(*many(250))
    await file.write("c0ffee", 1234, known)
    assert file.read() == Remembered("c0ffee", 1234, known)
    assert (tmp_path / "sub" / "dns-0.names").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in (tmp_path / "sub").iterdir()] == ["dns-0.names"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "writable", "version", "value"])
async def test_a_file_that_is_damaged_or_may_be_somebody_elses_is_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "dns-0.names"
    file = NamesFile(path)
    await file.write("c0ffee", 1234, {"u": {"ip": 5}} if damage == "value" else remembered(WWW))  # type: ignore[dict-item]
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:-5])
        case "garbage":
            path.write_bytes(b"\xc1" * 100)
        case "empty":
            path.write_bytes(b"")
        case "writable":
            path.chmod(0o666)
        case "version":
            path.write_bytes(data.replace(b"names 1", b"names 0"))
    assert file.read() is None


async def test_a_file_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "dns-0.new").mkdir()
    await NamesFile(tmp_path / "dns-0.names").write("c0ffee", 1, remembered(WWW))
    assert not (tmp_path / "dns-0.names").exists()


def test_a_summon_reports_how_long_its_query_was_held_until_the_name_was_known() -> None:
    made = empty_front()
    assert ask(made, 1.0) is None
    assert made.take() == []
    told(made, WWW, now=1.5)
    (summon,) = made.take()
    assert (summon.vm, summon.waited_s) == (WWW.uuid, 0.5)
