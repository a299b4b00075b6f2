from __future__ import annotations

import dns.message
from hypothesis import given
from hypothesis import strategies as st

from jitsu_dns.rules.message import Query, Rcode, Type, parse, respond, to_wire
from jitsu_dns.rules.records import Authority
from jitsu_dns.rules.table import Fixed, Hit, Table
from jitsu_protocol.vm import VM, from_config
from tests.support.vms import make_vm


def table(*vms: VM, zones: tuple[str, ...] = ()) -> Table:
    made = Table(zones, Authority())
    for vm in vms:
        made.replace(None, vm)
    made.publish(7)
    return made


def answer(made: Table, name: str, rdtype: str) -> dns.message.Message:
    query = parse(dns.message.make_query(name, rdtype).to_wire())
    assert isinstance(query, Query)
    found = made.find(query.key, query.qtype)
    assert found is not None
    if isinstance(found, Fixed):
        return dns.message.from_wire(respond(query, found.rcode, found.records))
    return dns.message.from_wire(respond(query, Rcode.NOERROR, found.records(found.node.of_type(query.qtype))))


def test_addresses_of_both_families_are_ready_made() -> None:
    vm = from_config({"dns": ["www.jitsu.test"], "ip": ["127.0.1.1", "127.0.1.2", "::1"], "ttl": ["9"]}, {})
    made = table(vm)
    assert answer(made, "WWW.jitsu.TEST", "A").answer[0].to_text() == (
        "WWW.jitsu.TEST. 9 IN A 127.0.1.1\nWWW.jitsu.TEST. 9 IN A 127.0.1.2"
    )
    assert answer(made, "www.jitsu.test", "AAAA").answer[0].to_text() == "www.jitsu.test. 9 IN AAAA ::1"


def test_what_is_not_there_is_denied_with_the_zones_soa() -> None:
    made = table(make_vm())
    for name, rdtype, rcode in (("www.jitsu.test", "TXT", 0), ("x.jitsu.test", "A", 3), ("a.www.jitsu.test", "A", 3)):
        reply = answer(made, name, rdtype)
        assert (reply.rcode(), reply.answer) == (rcode, [])
        assert reply.authority[0].to_text() == (
            "jitsu.test. 10 IN SOA ns.jitsu.test. hostmaster.jitsu.test. 7 3600 600 86400 10"
        )


def test_what_lies_between_a_name_and_its_zone_exists() -> None:
    made = table(make_vm(dns="a.b.jitsu.test"), zones=("jitsu.test",))
    assert answer(made, "b.jitsu.test", "A").rcode() == 0  # RFC 8020
    assert answer(made, "jitsu.test", "A").rcode() == 0
    assert answer(made, "c.jitsu.test", "A").rcode() == 3


def test_the_apex_has_an_soa_and_any_is_minimal() -> None:
    made = table(make_vm())
    assert answer(made, "jitsu.test", "SOA").answer[0].to_text().startswith("jitsu.test. 10 IN SOA")
    assert answer(made, "www.jitsu.test", "ANY").answer[0].to_text() == 'www.jitsu.test. 10 IN HINFO "RFC8482" ""'


def test_a_top_level_domain_is_never_a_zone() -> None:
    made = table(make_vm(dns="openmirage.org"))
    assert made.find(to_wire("org"), Type.A) is None
    assert made.find(to_wire("example.org"), Type.A) is None
    assert isinstance(made.find(to_wire("openmirage.org"), Type.A), Hit)


def test_a_name_outside_the_given_zones_is_still_answered_itself() -> None:
    made = table(make_vm(dns="www.other.test"), zones=("jitsu.test",))
    assert isinstance(made.find(to_wire("www.other.test"), Type.A), Hit)
    assert made.find(to_wire("x.other.test"), Type.A) is None


def test_the_serial_grows_even_if_the_clock_does_not() -> None:
    made = table(make_vm())
    made.publish(3)
    assert " 8 3600" in answer(made, "jitsu.test", "SOA").answer[0].to_text()


def test_a_changed_vm_keeps_its_counts_and_a_removed_one_is_gone() -> None:
    vm = make_vm()
    made = table(vm)
    (name,) = made.held_by(vm.uuid)
    name.count = 5
    moved = make_vm(address="127.0.1.9")
    made.replace(vm, moved)
    made.publish(8)
    (name,) = made.held_by(vm.uuid)
    assert (name.count, name.vm) == (5, moved)
    assert answer(made, "www.jitsu.test", "A").answer[0].to_text() == "www.jitsu.test. 60 IN A 127.0.1.9"
    made.replace(moved, None)
    made.publish(9)
    assert made.find(to_wire("www.jitsu.test"), Type.A) is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c.d", "e.c.d"]), st.booleans()), max_size=30))
def test_changes_one_by_one_lead_to_the_same_table_as_at_once(steps: list[tuple[str, bool]]) -> None:
    made, there = Table([], Authority()), dict[str, VM]()
    for name, present in steps:
        old = there.pop(name, None)
        if present:
            there[name] = make_vm(name)
        made.replace(old, there.get(name))
        made.publish(1)
    fresh = table(*there.values())
    for name in ("a", "b", "c.d", "e.c.d", "d", "x", "x.c.d"):
        key = to_wire(f"{name}.jitsu.test")
        ours, theirs = made.find(key, Type.A), fresh.find(key, Type.A)
        assert type(ours) is type(theirs)
        if isinstance(ours, Fixed) and isinstance(theirs, Fixed):
            assert ours.rcode == theirs.rcode
