"""Delegation: whether the domain above each zone names our name servers. Only with --internet are others asked.

resolver of this machine   the name servers of the domain above, and their addresses
one of these               the delegation of our zone, with glue (RFC 1034, section 4.2.2)
each delegated server      whether it answers for the zone with authority
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from jitsu.doctor.finding import Finding, note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu.doctor.finding import Suite

TOPIC = "delegation"
LIMIT_S = 3.0
MAX_ZONES, MAX_SERVERS = 5, 8
NEVER_DELEGATED = ("test", "example", "invalid", "localhost", "local", "internal", "lan", "home.arpa", "onion", "alt")
"""RFC 6761, 6762, 7686, 8375, 9476, and what ICANN has set aside; `lan` is what routers use."""


@dataclass(frozen=True)
class Delegation:
    """What the domain above says of one zone."""

    parent: str = ""
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name server -> the addresses that come with the delegation."""
    lame: Mapping[str, str] = field(default_factory=dict)
    """Name server -> why it does not answer for the zone."""
    fault: str = ""
    """Why nothing is known."""


@dataclass(frozen=True)
class DelegationFacts:
    """`zones` is what was found of each; `ours` is what the configuration says."""

    zones: Mapping[str, Delegation] = field(default_factory=dict)
    ours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def gatherable(suite: Suite) -> list[str]:
    """Return the zones that can be delegated at all."""
    return [zone for zone in suite.settings.dns.zones if not is_special(zone)][:MAX_ZONES]


def is_special(zone: str) -> bool:
    """Return whether nobody delegates such a zone: a special-use name, or a reverse zone of private addresses."""
    name = zone.lower().removesuffix(".")
    return any(name == each or name.endswith(f".{each}") for each in NEVER_DELEGATED) or name.endswith(
        (".10.in-addr.arpa", ".168.192.in-addr.arpa", ".d.f.ip6.arpa")
    )


async def gather(suite: Suite) -> DelegationFacts:
    """Ask the servers of the domains above."""
    zones = gatherable(suite)
    found = await asyncio.gather(*(asyncio.to_thread(look, zone) for zone in zones))
    own = tuple(suite.settings.dns.nameservers)
    return DelegationFacts(dict(zip(zones, found, strict=True)), {zone: own or (f"ns.{zone}",) for zone in zones})


def look(zone: str) -> Delegation:
    """Return what the domain above says of a zone; it blocks."""
    try:
        resolver = dns.resolver.Resolver()
        resolver.lifetime = 2 * LIMIT_S
        parent = dns.resolver.zone_for_name(dns.name.from_text(zone).parent(), resolver=resolver, lifetime=2 * LIMIT_S)
        servers = [each.target for each in resolver.resolve(parent, "NS")][:MAX_SERVERS]
        addresses = [str(each) for server in servers[:3] for each in resolver.resolve(server, "A")]
        reply = _first_reply(zone, "NS", addresses)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return Delegation(fault=str(error) or type(error).__name__)
    named: dict[str, tuple[str, ...]] = {}
    for rrset in [*reply.answer, *reply.authority]:
        if rrset.rdtype == dns.rdatatype.NS and rrset.name == dns.name.from_text(zone):
            named |= {each.target.to_text(omit_final_dot=True).lower(): () for each in rrset}
    for rrset in reply.additional:
        name = rrset.name.to_text(omit_final_dot=True).lower()
        if name in named and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            named[name] += tuple(each.address for each in rrset)
    lame = {}
    for name, glue in list(named.items())[:MAX_SERVERS]:
        if why := _lameness(zone, name, glue, resolver):
            lame[name] = why
    return Delegation(parent.to_text(omit_final_dot=True), named, lame)


def _first_reply(zone: str, rdtype: str, addresses: Sequence[str]) -> dns.message.Message:
    query = dns.message.make_query(zone, rdtype)
    query.flags &= ~dns.flags.RD
    error: Exception = ValueError("no server of the domain above has an IPv4 address")
    for address in addresses:
        try:
            return dns.query.udp(query, address, timeout=LIMIT_S)
        except (dns.exception.DNSException, OSError) as failed:
            error = failed
    raise error


def _lameness(zone: str, name: str, glue: Sequence[str], resolver: dns.resolver.Resolver) -> str:
    try:
        addresses = glue or [str(each) for each in resolver.resolve(name, "A")]
        reply = _first_reply(zone, "SOA", list(addresses))
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    if reply.rcode() != dns.rcode.NOERROR or not reply.flags & dns.flags.AA:
        return f"it says {dns.rcode.to_text(reply.rcode())}, without authority"
    return ""


def judge(facts: DelegationFacts) -> list[Finding]:
    """Find zones that the world does not look for here."""
    found = []
    for zone, delegation in facts.zones.items():
        ours = facts.ours.get(zone, ())
        above = delegation.parent or "the domain above"
        if delegation.fault:
            found.append(note(TOPIC, f"{zone} could not be looked at: {delegation.fault}", "Try again later."))
            continue
        if not delegation.servers:
            what = f"{above} does not delegate {zone} to anybody"
            advice = f"At your registrar, or in the zone {above}, enter NS records: {', '.join(ours)}."
            found.append(Finding(TOPIC, what, advice))
            continue
        if set(ours) != set(delegation.servers):
            what = f"{above} delegates {zone} to {_list(delegation.servers)}, and dns.nameservers is {_list(ours)}"
            found.append(Finding(TOPIC, what, "Make the two the same."))
        for name in sorted(delegation.servers):
            inside = name == zone or name.endswith(f".{zone}")
            if inside and not delegation.servers[name]:
                what = f"{name} is in {zone} itself, and {above} has no address (glue) for it"
                found.append(Finding(TOPIC, what, f"Enter its address where {zone} is delegated, and in dns.glue."))
            elif name in delegation.lame:
                what = f"{name}, to which {zone} is delegated, does not answer for it: {delegation.lame[name]}"
                found.append(
                    Finding(TOPIC, what, "Start dns there and open UDP and TCP port 53, or remove the NS record.")
                )
    return found


def _list(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"
