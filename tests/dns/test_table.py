from __future__ import annotations

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_dns.rules.lookup import Fixed, Hit
from jitsu_dns.rules.message import Query, Rcode, Type, parse, respond, to_wire
from jitsu_dns.rules.records import Authority, parse_static
from jitsu_dns.rules.table import Table
from jitsu_protocol.model.vm import VM, from_config
from tests.support.vms import make_vm


def table(
    *vms: VM, zones: tuple[str, ...] = ("jitsu.test",), authority: Authority | None = None, static: tuple[str, ...] = ()
) -> Table:
    made = Table(zones, authority or Authority(), map(parse_static, static))
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
        return dns.message.from_wire(respond(query, found.rcode, found.records, udp=False))
    records = found.records(found.node.of_type(query.qtype))
    return dns.message.from_wire(respond(query, Rcode.NOERROR, records, udp=False))


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


def test_the_serial_is_the_one_that_the_store_tells() -> None:
    made = table(make_vm())
    made.publish(3)
    assert " 3 3600" in answer(made, "jitsu.test", "SOA").answer[0].to_text()


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
    assert answer(made, "www.jitsu.test", "A").rcode() == 3


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c.d", "e.c.d"]), st.booleans()), max_size=30))
def test_changes_one_by_one_lead_to_the_same_table_as_at_once(steps: list[tuple[str, bool]]) -> None:
    made, there = Table(["jitsu.test"], Authority()), dict[str, VM]()
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


def texts(made: Table, name: str, rdtype: str) -> list[str]:
    """Return the answer section, a line for each record."""
    return [line for rrset in answer(made, name, rdtype).answer for line in rrset.to_text().split("\n")]


def test_a_wildcard_stands_for_what_does_not_exist_below_it() -> None:
    made = table(make_vm("all", "127.0.1.1", dns="*.p.jitsu.test"), make_vm("own", "127.0.1.2", dns="own.p.jitsu.test"))
    assert texts(made, "x.p.jitsu.test", "A") == ["x.p.jitsu.test. 60 IN A 127.0.1.1"]
    assert texts(made, "x.y.p.jitsu.test", "A") == ["x.y.p.jitsu.test. 60 IN A 127.0.1.1"]
    assert texts(made, "own.p.jitsu.test", "A") == ["own.p.jitsu.test. 60 IN A 127.0.1.2"]
    assert answer(made, "x.own.p.jitsu.test", "A").rcode() == 3  # RFC 4592, 2.2.1: its closest ancestor exists
    assert answer(made, "own.p.jitsu.test", "AAAA").answer == []
    assert answer(made, "p.jitsu.test", "A").answer == []


def test_an_alias_leads_to_the_vms_addresses() -> None:
    vm = from_config({"dns": ["www.jitsu.test"], "ip": ["127.0.1.1", "::1"], "alias": ["w.jitsu.test"]}, {})
    made = table(vm)
    assert texts(made, "w.jitsu.test", "A") == [
        "w.jitsu.test. 60 IN CNAME www.jitsu.test.",
        "www.jitsu.test. 60 IN A 127.0.1.1",
    ]
    assert texts(made, "W.jitsu.test", "CNAME") == ["W.jitsu.test. 60 IN CNAME www.jitsu.test."]
    missing = answer(made, "w.jitsu.test", "TXT")
    assert [missing.rcode(), len(missing.answer), len(missing.authority)] == [0, 1, 1]
    made.replace(vm, None)
    made.publish(8)
    assert answer(made, "w.jitsu.test", "A").rcode() == 3


def test_aliases_of_others_are_followed_as_far_as_they_are_held_here() -> None:
    made = table(
        make_vm(),
        static=(
            "a.jitsu.test. 30 IN CNAME b.jitsu.test.",
            "b.jitsu.test. 30 IN CNAME www.jitsu.test.",
            "out.jitsu.test. 30 IN CNAME www.example.org.",
            "lost.jitsu.test. 30 IN CNAME nowhere.jitsu.test.",
            "circle.jitsu.test. 30 IN CNAME circle.jitsu.test.",
        ),
    )
    assert [line.split()[0] for line in texts(made, "a.jitsu.test", "A")] == [
        "a.jitsu.test.",
        "b.jitsu.test.",
        "www.jitsu.test.",
    ]
    assert texts(made, "out.jitsu.test", "A") == ["out.jitsu.test. 30 IN CNAME www.example.org."]
    lost = answer(made, "lost.jitsu.test", "A")
    assert (lost.rcode(), len(lost.answer), lost.authority[0].name.to_text()) == (3, 1, "jitsu.test.")  # RFC 6604
    assert answer(made, "circle.jitsu.test", "A").rcode() == 2


def test_each_address_has_a_pointer_to_its_vm() -> None:
    vm = from_config({"dns": ["*.x.jitsu.test", "www.jitsu.test"], "ip": ["192.0.2.7", "2001:db8::7"]}, {})
    made = table(vm)
    assert texts(made, "7.2.0.192.in-addr.arpa", "PTR") == ["7.2.0.192.in-addr.arpa. 60 IN PTR www.jitsu.test."]
    six = "7" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa"
    assert texts(made, six, "PTR") == [f"{six}. 60 IN PTR www.jitsu.test."]
    assert made.find(to_wire("8.2.0.192.in-addr.arpa"), Type.PTR) is None


def test_a_zone_has_name_servers_with_addresses() -> None:
    made = table(make_vm(), authority=Authority(own_addresses=("192.0.2.53",)))
    reply = answer(made, "jitsu.test", "NS")
    assert reply.answer[0].to_text() == "jitsu.test. 3600 IN NS ns.jitsu.test."
    assert reply.additional[0].to_text() == "ns.jitsu.test. 3600 IN A 192.0.2.53"
    assert texts(made, "ns.jitsu.test", "A") == ["ns.jitsu.test. 3600 IN A 192.0.2.53"]
    elsewhere = Authority("m.example.org", "dns.example.org", ("ns1.example.org",), {"ns1.example.org": ("192.0.2.1",)})
    made = table(make_vm(), authority=elsewhere)
    assert answer(made, "jitsu.test", "SOA").answer[0].to_text().split()[4:6] == ["m.example.org.", "dns.example.org."]
    assert texts(made, "jitsu.test", "NS") == ["jitsu.test. 3600 IN NS ns1.example.org."]


def test_records_of_all_types_stand_beside_the_vms() -> None:
    static = (
        'www.jitsu.test. 300 IN TXT "hello" "world"',
        "jitsu.test. 300 IN MX 10 mail.jitsu.test.",
        "_sip._tcp.jitsu.test. 30 IN SRV 1 2 5060 www.jitsu.test.",
        'jitsu.test. 3600 IN CAA 0 issue "ca.example.org"',
        'www.jitsu.test. 300 IN HTTPS 1 . alpn="h2,h3"',
        "mail.jitsu.test. 60 IN A 192.0.2.25",
        "mail.jitsu.test. 60 IN A 192.0.2.26",
        "x.jitsu.test. 60 IN TYPE65280 \\# 2 abcd",
    )
    made = table(make_vm(), static=static)
    for line in static:
        name, _, _, rdtype, *_ = line.split()
        assert line.replace("TYPE65280", "TYPE65280") in texts(made, name, rdtype)
    assert len(texts(made, "mail.jitsu.test", "A")) == 2
    assert texts(made, "www.jitsu.test", "A") == ["www.jitsu.test. 60 IN A 127.0.1.1"]
    assert answer(made, "_tcp.jitsu.test", "A").rcode() == 0


@pytest.mark.parametrize(
    "line", ["nonsense", "a.test. IN A 1.2.3", "a.test. CH TXT x", "a.test. SOA a. b. 1 2 3 4 5", "a.test. NS b.", ""]
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="record"):
        parse_static(line)
