"""Resolvers of this machine: whether they send the questions for our zones to us, and keep answers as long as they may.

Each is asked once for each zone, for a name that nobody has, so that no VM is started. A resolver that asks us passes
on our NXDOMAIN with our SOA record, whose TTL is the negative one (RFC 2308, section 5).
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from jitsu.doctor.finding import Finding, note
from jitsu_runtime.settings.values import server_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu.doctor.finding import Suite

TOPIC = "resolvers"
RESOLV_CONF = Path("/etc/resolv.conf")
LIMIT_S = 2.0
MAX_ZONES = 5
DNS_PORT = 53


@dataclass(frozen=True)
class Answer:
    """What a server answers for a name that nobody has."""

    rcode: str = ""
    zone: str = ""
    """The owner of the SOA record in the answer."""
    serial: int = 0
    ttl: int = 0
    """The TTL of that record."""
    fault: str = ""
    """Why there is no answer."""


@dataclass(frozen=True)
class ResolverFacts:
    """`asked` is resolver -> zone -> answer; `ours` is zone -> the answer of a replica of this suite."""

    port: int = DNS_PORT
    asked: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)
    ours: Mapping[str, Answer] = field(default_factory=dict)


def nameservers(resolv_conf: Path = RESOLV_CONF) -> list[str]:
    """Return the servers that programs on this machine ask (resolv.conf(5))."""
    try:
        text = resolv_conf.read_text()
    except OSError:
        return []
    words = [line.split() for line in text.splitlines()]
    return [each[1] for each in words if len(each) >= 2 and each[0] == "nameserver"]


async def gather(suite: Suite, servers: list[str] | None = None) -> ResolverFacts:
    """Ask the resolvers, `ADDRESS` or `ADDRESS@PORT`, and a replica; none if no replica or no zone is known."""
    zones = suite.settings.dns.zones[:MAX_ZONES]
    address = next((each for each, replicas in suite.answering.items() if replicas), "")
    if not zones or not address:
        return ResolverFacts()
    host, _, port = address.rpartition(":")
    own = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]")), int(port))
    asked: dict[str, dict[str, Answer]] = {}
    for server in nameservers() if servers is None else servers:
        found = await asyncio.gather(*(asyncio.to_thread(ask, server_address(server), zone) for zone in zones))
        asked[server] = dict(zip(zones, found, strict=True))
    ours = {zone: await asyncio.to_thread(ask, own, zone) for zone in zones}
    return ResolverFacts(int(port), asked, ours)


def ask(server: tuple[str, int], zone: str) -> Answer:
    """Ask for a name of a zone that nobody has; it blocks for LIMIT_S at most."""
    query = dns.message.make_query(f"jitsu-doctor-{secrets.token_hex(6)}.{zone}", "A")
    try:
        reply = dns.query.udp(query, server[0], port=server[1], timeout=LIMIT_S)
    except dns.exception.Timeout:
        return Answer(fault=f"it does not answer within {LIMIT_S:g} s")
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return Answer(fault=str(error) or type(error).__name__)
    answer = Answer(dns.rcode.to_text(reply.rcode()))
    for rrset in reply.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            name = rrset.name.to_text(omit_final_dot=True).lower()
            return Answer(answer.rcode, name, rrset[0].serial, rrset.ttl)
    return answer


def judge(facts: ResolverFacts) -> list[Finding]:
    """Find resolvers that go elsewhere for our names, or that keep answers for too long."""
    if facts.port != DNS_PORT and facts.asked:
        what = f"dns serves port {facts.port}, and resolvers ask port 53, so only who asks it directly is answered"
        return [note(TOPIC, what, "Fine for a trial; otherwise set dns.port = 53, or have a resolver forward to it.")]
    found = []
    for server, answers in facts.asked.items():
        for zone, answer in answers.items():
            ours = facts.ours.get(zone, Answer())
            if ours.zone != zone:
                continue  # this suite does not say what is right
            if answer.fault:
                found.append(Finding(TOPIC, f"{server}: {answer.fault}", "Correct /etc/resolv.conf, or that server."))
                break
            if answer.zone != zone or answer.rcode != "NXDOMAIN":
                said = f"it says {answer.rcode}{f' for {answer.zone}' if answer.zone else ''}"
                what = f"{server} does not ask this suite for names in {zone}: {said}"
                found.append(
                    Finding(TOPIC, what, "Delegate the zone to it, or have that resolver forward the zone to it.")
                )
            elif answer.ttl > ours.ttl:
                what = f"{server} keeps answers for longer than it may: {answer.ttl} s instead of {ours.ttl} s"
                found.append(Finding(TOPIC, what, TTL_ADVICE))
                break
    return found


TTL_ADVICE = (
    "A VM may be stopped while clients still use such an answer. Set the lowest TTL of that resolver to 0 "
    "(min-cache-ttl of dnsmasq, cache-min-ttl of Unbound), or idle_timeout of VMs to more than that."
)
