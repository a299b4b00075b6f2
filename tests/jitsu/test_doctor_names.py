"""What `jitsu doctor` finds on the way to our zones: resolvers of this machine, and the domains above."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from jitsu.doctor import delegation, resolvers
from jitsu.doctor.finding import Finding, Suite
from jitsu_runtime.settings.load import load
from tests.support.doctor import faults, notes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def server(zone: str, ttl: int, rcode: str = "NXDOMAIN") -> Iterator[str]:
    """Serve one zone on loopback: every name is answered with its SOA; yields ADDRESS@PORT."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(0.1)
        ends = threading.Event()

        def serve() -> None:
            while not ends.is_set():
                try:
                    data, client = bound.recvfrom(4096)
                except TimeoutError:
                    continue
                reply = dns.message.make_response(dns.message.from_wire(data))
                reply.set_rcode(dns.rcode.from_text(rcode))
                if zone:
                    reply.authority.append(dns.rrset.from_text(f"{zone}.", ttl, "IN", "SOA", "ns. root. 7 1 1 1 10"))
                bound.sendto(reply.to_wire(), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1@{bound.getsockname()[1]}"
        finally:
            ends.set()
            thread.join()


async def asked(resolver: str, ours: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Return what is found of a resolver beside a replica that serves jitsu.example."""
    monkeypatch.setattr(resolvers, "LIMIT_S", 0.3)
    at = ours.replace("@", ":")
    shown = Suite(load(None, {}, {"dns.zones": "jitsu.example"}), answering={at: frozenset({"dns-0"})})
    facts = await resolvers.gather(shown, [resolver])
    return resolvers.judge(resolvers.ResolverFacts(53, facts.asked, facts.ours))


async def test_a_resolver_that_asks_us_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("jitsu.example", 10) as ours, server("jitsu.example", 7) as resolver:
        assert await asked(resolver, ours, monkeypatch) == []


async def test_a_resolver_that_asks_somebody_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("jitsu.example", 10) as ours, server("example", 900) as resolver:
        (said,) = faults(await asked(resolver, ours, monkeypatch))
        assert said == f"{resolver} does not ask this suite for names in jitsu.example: it says NXDOMAIN for example"
    with server("jitsu.example", 10) as ours, server("", 0, "REFUSED") as resolver:
        (said,) = faults(await asked(resolver, ours, monkeypatch))
        assert said.endswith("it says REFUSED")


async def test_a_resolver_that_stretches_ttls_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("jitsu.example", 10) as ours, server("jitsu.example", 300) as resolver:
        (said,) = faults(await asked(resolver, ours, monkeypatch))
        assert said == f"{resolver} keeps answers for longer than it may: 300 s instead of 10 s"


async def test_a_resolver_that_is_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("jitsu.example", 10) as ours, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = f"127.0.0.1@{silent.getsockname()[1]}"
        assert faults(await asked(resolver, ours, monkeypatch)) == [f"{resolver}: it does not answer within 0.3 s"]


def test_another_port_than_53_is_a_note_and_resolvers_are_read_from_the_file(tmp_path: Path) -> None:
    facts = resolvers.ResolverFacts(5300, {"127.0.0.53": {"jitsu.test": resolvers.Answer("NXDOMAIN")}})
    assert notes(resolvers.judge(facts))[0].startswith("dns serves port 5300, and resolvers ask port 53")
    (tmp_path / "resolv.conf").write_text("# x\nsearch lan\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n")
    assert resolvers.nameservers(tmp_path / "resolv.conf") == ["192.0.2.1", "fe80::1%eth0"]


# --- delegation ---

OURS = {"jitsu.org": ("ns1.jitsu.org", "ns2.example.net")}


def delegated(**keys: object) -> list[Finding]:
    found = {"parent": "org", "servers": {"ns1.jitsu.org": ("192.0.2.1",), "ns2.example.net": ()}} | keys
    return delegation.judge(delegation.DelegationFacts({"jitsu.org": delegation.Delegation(**found)}, OURS))  # type: ignore[arg-type]


def test_a_delegation_that_is_right_is_no_finding() -> None:
    assert delegated() == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"servers": {}}, "org does not delegate jitsu.org to anybody"),
        (
            {"servers": {"ns1.jitsu.org": ("192.0.2.1",)}},
            "org delegates jitsu.org to ns1.jitsu.org, and dns.nameservers is ns1.jitsu.org, ns2.example.net",
        ),
        (
            {"servers": {"ns1.jitsu.org": (), "ns2.example.net": ()}},
            "ns1.jitsu.org is in jitsu.org itself, and org has no address (glue) for it",
        ),
        (
            {"lame": {"ns2.example.net": "it says REFUSED, without authority"}},
            "ns2.example.net, to which jitsu.org is delegated, does not answer for it: it says REFUSED",
        ),
    ],
)
def test_a_delegation_that_leads_elsewhere_is_found(keys: dict[str, object], expected: str) -> None:
    assert [each[: len(expected)] for each in faults(delegated(**keys))] == [expected]


def test_a_domain_above_that_does_not_answer_is_a_note() -> None:
    assert notes(delegated(fault="timed out")) == ["jitsu.org could not be looked at: timed out"]


@pytest.mark.parametrize(
    ("zone", "special"),
    [("jitsu.test", True), ("home.arpa", True), ("2.168.192.in-addr.arpa", True), ("jitsu.org", False), ("test", True)],
)
def test_zones_that_nobody_delegates_are_not_asked_for(zone: str, special: bool) -> None:
    assert delegation.is_special(zone) is special
