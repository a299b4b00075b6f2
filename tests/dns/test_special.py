"""Special-use names: answered here, except for what is held and what is to be forwarded."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.reversename
import pytest

from jitsu_dns.rules.exchange import Client
from jitsu_dns.rules.forward import AskServer, Forwarder
from jitsu_dns.rules.special import ZONES, SpecialNames
from jitsu_protocol.model.states import VmState
from jitsu_protocol.rates import Networks
from tests.support.front import ADDRESS, VM_WWW, front, state
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from tests.support.front import DrivenFront


def forwarding(*vms: VM, special: SpecialNames | None = None, static: tuple[str, ...] = ()) -> DrivenFront:
    forwarder = Forwarder([("192.0.2.53", 53)], Networks(["192.0.2.1"]), random.Random(1))
    made = front(*vms, forward=forwarder, static=static, special=special)
    for vm in vms or (VM_WWW,):
        state(made, VmState.READY, vm)
    return made


def ask(made: DrivenFront, name: str, rdtype: str = "A", **options: object) -> dns.message.Message | None:
    """Return the answer, None if others are asked."""
    query = dns.message.make_query(name, rdtype, **options)  # type: ignore[arg-type]
    answer = made.query(query.to_wire(), Client("c", ADDRESS, True), 1.0)
    asked = [action for action in made.take() if isinstance(action, AskServer)]
    assert bool(asked) is (answer is None)
    return None if answer is None else dns.message.from_wire(answer)


def denied(message: dns.message.Message | None) -> tuple[str, str]:
    """Return the rcode, and the zone whose SOA stands in the authority section."""
    assert message is not None
    assert message.answer == []
    assert not message.flags & dns.flags.AA  # nobody has made these zones ours
    assert message.flags & dns.flags.RA
    (soa,) = message.authority
    return dns.rcode.to_text(message.rcode()), soa.name.to_text(omit_final_dot=True)


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("www.test", "test"),
        ("a.b.invalid", "invalid"),
        ("printer.local", "local"),
        ("facebookcorewwwi.ONION", "onion"),
        ("nas.home.arpa", "home.arpa"),
        *((dns.reversename.from_address(address).to_text(omit_final_dot=True), zone) for address, zone in [
            ("10.1.2.3", "10.in-addr.arpa"),
            ("172.31.255.1", "31.172.in-addr.arpa"),
            ("192.168.1.1", "168.192.in-addr.arpa"),
            ("169.254.0.1", "254.169.in-addr.arpa"),
            ("127.0.0.2", "127.in-addr.arpa"),
            ("0.1.2.3", "0.in-addr.arpa"),
            ("203.0.113.9", "113.0.203.in-addr.arpa"),
            ("fd12::1", "d.f.ip6.arpa"),
            ("fe80::1", "8.e.f.ip6.arpa"),
            ("febf::1", "b.e.f.ip6.arpa"),
            ("2001:db8::1", "8.b.d.0.1.0.0.2.ip6.arpa"),
        ]),
    ],
)  # fmt: skip
def test_there_is_nothing_below_a_special_zone_and_nobody_else_is_asked(name: str, zone: str) -> None:
    made = forwarding(make_vm("w", "198.18.0.1", dns="www.example.org"))
    for rdtype in ("A", "TXT", "PTR"):
        assert denied(ask(made, name, rdtype)) == ("NXDOMAIN", zone)
    assert denied(ask(made, zone, "MX")) == ("NOERROR", zone)
    for rdtype in ("SOA", "NS"):
        found = ask(made, zone, rdtype)
        assert found is not None
        assert [rrset.name.to_text(omit_final_dot=True) for rrset in found.answer] == [zone]


def test_rfc_6303_all_its_zones_are_there() -> None:
    assert len(ZONES) == 5 + 7 + 16 + 1 + 8 + 1
    for text in ("255.255.255.255", "::", "::1"):
        key = dns.reversename.from_address(text).to_wire()
        assert key in ZONES


@pytest.mark.parametrize("name", ["172.32.0.1", "172.15.0.1", "192.169.0.1", "11.0.0.1", "2001:db9::1", "fc00::1"])
def test_other_reverse_names_are_forwarded(name: str) -> None:
    assert ask(forwarding(), dns.reversename.from_address(name).to_text(), "PTR") is None


@pytest.mark.parametrize("name", ["www.example.org", "localhost.example.org", "arpa", "test.example", "xlocal"])
def test_ordinary_names_are_forwarded(name: str) -> None:
    assert ask(forwarding(), name) is None


def test_rfc_6761_localhost_is_this_host() -> None:
    made = forwarding()
    for name in ("localhost", "a.b.LocalHost"):
        for rdtype, address in (("A", "127.0.0.1"), ("AAAA", "::1")):
            found = ask(made, name, rdtype)
            assert found is not None
            assert [str(rdata) for rrset in found.answer for rdata in rrset] == [address]
            assert found.answer[0].name == dns.name.from_text(name)
        assert denied(ask(made, name, "MX")) == ("NOERROR", "localhost")


def test_what_is_held_here_is_answered_as_ever_and_names_above_it_exist() -> None:
    made = forwarding(make_vm("www", "192.168.7.1", dns="www.lab.home.arpa"))
    held = ask(made, "www.lab.home.arpa")
    assert held is not None
    assert [str(rdata) for rdata in held.answer[0]] == ["192.168.7.1"]
    for name in ("lab.home.arpa", "home.arpa"):
        assert denied(ask(made, name)) == ("NOERROR", "home.arpa")
    assert denied(ask(made, "nas.home.arpa")) == ("NXDOMAIN", "home.arpa")
    pointer = ask(made, "1.7.168.192.in-addr.arpa", "PTR")
    assert pointer is not None
    assert [str(rdata) for rdata in pointer.answer[0]] == ["www.lab.home.arpa."]
    assert denied(ask(made, "7.168.192.in-addr.arpa", "PTR")) == ("NOERROR", "168.192.in-addr.arpa")
    assert denied(ask(made, "2.7.168.192.in-addr.arpa", "PTR")) == ("NXDOMAIN", "168.192.in-addr.arpa")


def test_rfc_8375_whether_home_arpa_is_signed_is_asked_of_others() -> None:
    made = forwarding()
    assert ask(made, "home.arpa", "DS", want_dnssec=True) is None
    assert denied(ask(made, "a.home.arpa", "DS")) == ("NXDOMAIN", "home.arpa")


def test_zones_that_somebody_else_holds_are_forwarded() -> None:
    made = forwarding(special=SpecialNames(["168.192.in-addr.arpa", "home.arpa"]))
    assert ask(made, "1.2.168.192.in-addr.arpa", "PTR") is None
    assert ask(made, "nas.home.arpa") is None
    assert denied(ask(made, "1.0.0.10.in-addr.arpa", "PTR")) == ("NXDOMAIN", "10.in-addr.arpa")


def test_an_alias_of_ours_to_a_special_name_is_answered_here_too() -> None:
    made = forwarding(static=("a.example.org. 9 IN CNAME b.local.", "l.example.org. 9 IN CNAME localhost."))
    away, here = ask(made, "a.example.org"), ask(made, "l.example.org")
    assert away is not None
    assert here is not None
    assert (away.rcode(), away.answer[0].to_text()) == (3, "a.example.org. 9 IN CNAME b.local.")
    assert [rrset.to_text() for rrset in here.answer] == [
        "l.example.org. 9 IN CNAME localhost.",
        "localhost. 3600 IN A 127.0.0.1",
    ]


def test_clients_for_whom_nothing_is_forwarded_are_refused() -> None:
    made = forwarding()
    query = dns.message.make_query("www.local", "A")
    for flags, address in ((0, ADDRESS), (dns.flags.RD, bytes([198, 51, 100, 1]))):
        query.flags = dns.flags.Flag(flags)
        answer = made.query(query.to_wire(), Client("c", address, True), 1.0)
        assert dns.message.from_wire(answer or b"").rcode() == dns.rcode.REFUSED
