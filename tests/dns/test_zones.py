"""Which names are ours: all below `dns.zones`, and of what is held elsewhere the names themselves."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from jitsu_dns.rules.lookup import Fixed, Hit, Wildcards
from jitsu_dns.rules.message import Rcode, Type, to_wire
from jitsu_dns.rules.records import Authority, conflicts, parse_static
from jitsu_dns.rules.table import Table
from jitsu_protocol.model.inventory import VmChanged
from tests.dns.test_table import answer, table, texts
from tests.support.front import front
from tests.support.vms import make_vm
from tests.support.work import instructions

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

DUCK = make_vm("duck", dns="x.duckdns.org")


@pytest.mark.parametrize("zones", [(), ("jitsu.test",)])
def test_a_name_in_no_zone_of_ours_is_ours_for_all_types(zones: tuple[str, ...]) -> None:
    made = table(DUCK, zones=zones)
    assert texts(made, "x.duckdns.org", "A") == ["x.duckdns.org. 60 IN A 127.0.1.1"]
    for rdtype in ("AAAA", "MX", "TXT", "HTTPS", "NS", "DS"):
        reply = answer(made, "x.duckdns.org", rdtype)
        assert (reply.rcode(), reply.answer) == (0, []), rdtype
        assert reply.authority[0].to_text() == (
            "x.duckdns.org. 10 IN SOA ns.x.duckdns.org. hostmaster.x.duckdns.org. 7 3600 600 86400 10"
        )
    assert [line.split()[3] for line in texts(made, "x.duckdns.org", "SOA")] == ["SOA"]


def test_siblings_parents_and_children_of_such_a_name_are_not_ours() -> None:
    made = table(DUCK, make_vm("uk", dns="x.co.uk"), zones=())
    for name in ("y.duckdns.org", "duckdns.org", "y.x.duckdns.org", "y.co.uk", "co.uk", "uk"):
        for rtype in (Type.A, Type.AAAA, Type.NS, Type.SOA):
            assert made.find(to_wire(name), rtype) is None, name


def test_an_alias_a_record_and_a_pointer_in_no_zone_are_ours_for_all_types_too() -> None:
    vm = make_vm(ip="192.0.2.7", alias="w.other.test")
    made = table(vm, static=('t.other.test. 60 IN TXT "x"',), zones=())
    assert [line.split()[3] for line in texts(made, "w.other.test", "A")] == ["CNAME", "A"]
    assert answer(made, "t.other.test", "AAAA").authority[0].name.to_text() == "t.other.test."
    assert answer(made, "7.2.0.192.in-addr.arpa", "A").authority[0].name.to_text() == "7.2.0.192.in-addr.arpa."
    assert made.find(to_wire("2.0.192.in-addr.arpa"), Type.PTR) is None


def test_a_wildcard_in_no_zone_stands_for_all_types_of_the_names_below_it() -> None:
    made = table(make_vm("all", dns="*.p.example.org"), zones=())
    assert texts(made, "a.p.example.org", "A") == ["a.p.example.org. 60 IN A 127.0.1.1"]
    assert answer(made, "a.p.example.org", "AAAA").authority[0].name.to_text() == "a.p.example.org."
    assert made.find(to_wire("p.example.org"), Type.A) is None


def test_a_wildcard_leaves_out_the_labels_and_depths_that_are_excluded() -> None:
    vm = make_vm("all", dns="*.p.jitsu.test")
    made = Table(["jitsu.test"], Authority(), wildcards=Wildcards(frozenset({b"wpad", b"isatap"}), 1))
    made.replace(None, vm)
    assert isinstance(made.find(to_wire("a.p.jitsu.test"), Type.A), Hit)
    for name in ("wpad.p.jitsu.test", "isatap.p.jitsu.test", "a.b.p.jitsu.test"):
        found = made.find(to_wire(name), Type.A)
        assert isinstance(found, Fixed)
        assert found.rcode is Rcode.NXDOMAIN
    assert isinstance(made.find(to_wire("wpad2.p.jitsu.test"), Type.A), Hit)
    deep = Table([], Authority(), wildcards=Wildcards(frozenset({b"wpad"}), 0))
    deep.replace(None, vm)
    assert isinstance(deep.find(to_wire("a.b.p.jitsu.test"), Type.A), Hit)
    assert deep.find(to_wire("wpad.b.p.jitsu.test"), Type.A) is None


def test_what_zones_were_made_of_before_is_told() -> None:
    made = table(DUCK, make_vm(), make_vm("apex", "127.0.1.2", dns="example.org"), zones=("jitsu.test",))
    assert made.homeless_domains() == ["duckdns.org", "example.org"]


def test_name_servers_in_our_zones_without_an_address_are_told() -> None:
    assert table(zones=("a.test", "b.test")).zones.without_address() == ["ns.a.test", "ns.b.test"]
    given = Authority(nameservers=("ns1.a.test", "ns2.a.test", "ns.other.test"), glue={"ns1.a.test": ("192.0.2.1",)})
    assert table(zones=("a.test",), authority=given).zones.without_address() == ["ns2.a.test"]
    assert table(zones=("a.test",), authority=Authority(own_addresses=("192.0.2.1",))).zones.without_address() == []


def test_the_address_of_a_zones_own_name_server_follows_the_hosts_addresses() -> None:
    made = table(zones=("a.test",), authority=Authority(own_addresses=()))
    assert made.zones.without_address() == ["ns.a.test"]
    assert made.zones.readdress(("192.0.2.1", "2001:db8::1"))
    assert answer(made, "ns.a.test", "A").answer[0].to_text() == "ns.a.test. 3600 IN A 192.0.2.1"
    assert "192.0.2.1" in answer(made, "a.test", "NS").to_text()
    assert made.zones.without_address() == []
    assert not made.zones.readdress(("192.0.2.1", "2001:db8::1")), "nothing has changed"
    assert made.zones.readdress(("192.0.2.2",))
    assert answer(made, "ns.a.test", "A").answer[0].to_text() == "ns.a.test. 3600 IN A 192.0.2.2"


def test_name_servers_that_are_configured_keep_their_addresses_when_the_hosts_change() -> None:
    given = Authority(nameservers=("ns1.a.test",), glue={"ns1.a.test": ("192.0.2.9",)}, own_addresses=("192.0.2.1",))
    made = table(zones=("a.test",), authority=given)
    made.zones.readdress(("192.0.2.2",))
    assert answer(made, "ns1.a.test", "A").answer[0].to_text() == "ns1.a.test. 3600 IN A 192.0.2.9"


def test_the_longest_names_can_be_zones_and_names_of_vms() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    made = table(make_vm("long", dns=longest), make_vm("other", "127.0.1.2", dns=longest.replace("a", "e")), zones=())
    assert len(to_wire(longest)) == 255
    assert answer(made, longest, "TXT").authority[0].name.to_text() == f"{longest}."
    zone = table(zones=(longest,))
    assert answer(zone, longest, "NS").answer[0].to_text() == f"{longest}. 3600 IN NS {longest}."


def work_for_one_change(vms: int, zones: tuple[str, ...]) -> int:
    """Return how much work it is when one VM of so many changes its TTL."""
    many = [make_vm(f"vm{n}", f"10.{n // 62500}.{n // 250 % 250}.{n % 250}") for n in range(vms)]
    made = front(*many, zones=zones)
    change = VmChanged(many[7], make_vm("vm7", "10.0.0.7", ttl="61"))
    work = instructions(lambda: made.configure([change], 9, 1.0))
    assert made.table.held_by(many[7].uuid)[0].vm.ttl == 61
    return work


@pytest.mark.parametrize("zones", [(), ("jitsu.test", "10.in-addr.arpa")])
def test_the_work_for_one_change_does_not_grow_with_the_number_of_vms(zones: tuple[str, ...]) -> None:
    assert work_for_one_change(400, zones) == work_for_one_change(20, zones)


def vm_with_a_bad_value(**fields: object) -> VM:
    return make_vm("bad", "127.0.1.66").model_copy(update=fields)


@pytest.mark.parametrize(
    "bad",
    [
        vm_with_a_bad_value(addresses=(IPv6Address("fe80::1%eth0"),)),
        vm_with_a_bad_value(names={"a" * 64 + ".jitsu.test": 60}),
        vm_with_a_bad_value(names={".".join(["a" * 63] * 4): 60}),
        vm_with_a_bad_value(names={"bad..jitsu.test": 60}),
        vm_with_a_bad_value(names={"bad.jitsu.test": 2**32}),
        vm_with_a_bad_value(names={"bad.jitsu.test": -1}),
        vm_with_a_bad_value(aliases=("b" * 64 + ".jitsu.test",)),
    ],
    ids=["scope", "label", "name", "empty", "ttl", "negative-ttl", "alias"],
)
def test_a_value_that_no_record_can_hold_costs_that_vm_only(bad: VM) -> None:
    good, other = make_vm(), make_vm("other", "127.0.1.2")
    made = front(good, bad, other)
    assert set(made.faults) == {bad.uuid}
    assert made.faults[bad.uuid].startswith("bad: ")
    for name in ("www", "other"):
        assert isinstance(made.table.find(to_wire(f"{name}.jitsu.test"), Type.A), Hit)
    assert not made.table.held_by(bad.uuid)
    mended = make_vm("bad", "127.0.1.66")
    made.configure([VmChanged(bad, mended)], 2, 1.0)
    assert not made.faults
    assert isinstance(made.table.find(to_wire("bad.jitsu.test"), Type.A), Hit)
    made.configure([VmChanged(mended, bad)], 3, 2.0)
    assert set(made.faults) == {bad.uuid}
    assert not made.table.held_by(bad.uuid), "its earlier form is not served either"
    made.configure([VmChanged(bad, None)], 4, 3.0)
    assert not made.faults


def static(*lines: str) -> Table:
    return Table(["jitsu.test"], Authority(), map(parse_static, lines))


@pytest.mark.parametrize("owner", [r"a\.b.jitsu.test", r"a\032b.jitsu.test", r"\255.jitsu.test", r"\065\\.jitsu.test"])
def test_an_escaped_owner_name_is_served_as_the_name_that_it_is(owner: str) -> None:
    made = static(f'{owner}. 60 IN TXT "x"')
    assert [line.split()[3] for line in texts(made, owner, "TXT")] == ["TXT"]
    assert answer(made, "b.jitsu.test", "TXT").rcode() == 3, "a\\.b is one label"
    target = static(f"w.jitsu.test. 60 IN CNAME {owner}.", f'{owner}. 60 IN TXT "x"')
    assert [line.split()[3] for line in texts(target, "w.jitsu.test", "TXT")] == ["CNAME", "TXT"]


def test_a_dname_leads_every_name_below_it_to_its_target() -> None:
    made = static("old.jitsu.test. 300 IN DNAME new.jitsu.test.", "a.b.new.jitsu.test. 60 IN A 192.0.2.1")
    assert texts(made, "a.b.OLD.jitsu.test", "A") == [
        "old.jitsu.test. 300 IN DNAME new.jitsu.test.",
        "a.b.OLD.jitsu.test. 300 IN CNAME a.b.new.jitsu.test.",
        "a.b.new.jitsu.test. 60 IN A 192.0.2.1",
    ]
    assert texts(made, "old.jitsu.test", "DNAME") == ["old.jitsu.test. 300 IN DNAME new.jitsu.test."]
    assert answer(made, "old.jitsu.test", "A").answer == [], "RFC 6672, 2.3: the owner itself is not redirected"
    lost = answer(made, "x.old.jitsu.test", "A")
    assert (lost.rcode(), len(lost.answer)) == (3, 2)
    alias = texts(made, "x.old.jitsu.test", "CNAME")
    assert alias == ["old.jitsu.test. 300 IN DNAME new.jitsu.test.", "x.old.jitsu.test. 300 IN CNAME x.new.jitsu.test."]


def test_a_name_that_a_dname_would_make_too_long_is_yxdomain() -> None:
    target = ".".join(["t" * 63] * 3)
    made = static(f"o.jitsu.test. 300 IN DNAME {target}.")
    reply = answer(made, f"{'x' * 63}.o.jitsu.test", "A")
    assert (reply.rcode(), len(reply.answer)) == (6, 1)  # RFC 6672, 2.2


def test_a_dname_circle_ends() -> None:
    assert answer(static("o.jitsu.test. 300 IN DNAME o.jitsu.test."), "x.o.jitsu.test", "A").rcode() == 2


def test_a_vms_name_is_answered_although_a_configured_link_has_it_and_that_is_told() -> None:
    made = static("www.jitsu.test. 60 IN CNAME x.example.org.", "d.jitsu.test. 60 IN DNAME example.org.")
    assert made.hidden_records() == []
    www, below = make_vm(), make_vm("a.d", "127.0.1.2")
    for vm in (www, below):
        made.replace(None, vm)
    assert texts(made, "www.jitsu.test", "A") == ["www.jitsu.test. 60 IN A 127.0.1.1"]
    assert answer(made, "www.jitsu.test", "CNAME").answer == []
    assert texts(made, "a.d.jitsu.test", "A") == ["a.d.jitsu.test. 60 IN A 127.0.1.2"]
    assert [line.partition(":")[0] for line in made.hidden_records()] == ["www.jitsu.test", "d.jitsu.test"]
    for vm in (www, below):
        made.replace(vm, None)
    assert made.hidden_records() == []
    assert texts(made, "www.jitsu.test", "A") == ["www.jitsu.test. 60 IN CNAME x.example.org."]
    alias = make_vm("b", "127.0.1.3", alias="www.jitsu.test")
    made.replace(None, alias)
    assert texts(made, "www.jitsu.test", "A")[0] == "www.jitsu.test. 60 IN CNAME b.jitsu.test."
    assert len(made.hidden_records()) == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("a.jitsu.test. CNAME b.test.", "a.jitsu.test. TXT x"), "a.jitsu.test has a CNAME and other records"),
        (("a.jitsu.test. CNAME b.test.", "a.jitsu.test. CNAME c.test."), "a.jitsu.test has 2 CNAME records"),
        (("a.jitsu.test. DNAME b.test.", "a.jitsu.test. CNAME c.test."), "a.jitsu.test has a CNAME and other records"),
        (("a.jitsu.test. DNAME b.test.", "x.a.jitsu.test. TXT x"), "x.a.jitsu.test lies below a.jitsu.test"),
        (("jitsu.test. CNAME b.test.",), "jitsu.test is a zone"),
        (
            (
                "a.jitsu.test. CNAME b.test.",
                "b.jitsu.test. TXT x",
                "c.jitsu.test. DNAME d.test.",
                "c.jitsu.test. TXT x",
            ),
            "",
        ),
    ],
)
def test_configured_records_that_cannot_stand_beside_each_other_are_told(lines: tuple[str, ...], said: str) -> None:
    found = conflicts([parse_static(line) for line in lines], ["jitsu.test"])
    assert [each[: len(said)] for each in found] == ([said] if said else [])
