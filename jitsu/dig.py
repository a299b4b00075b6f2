"""Asks the dns replicas themselves: what each believes of a name's VMs, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.edns
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from jitsu_protocol.model.errors import BadRequest
from jitsu_protocol.model.vm import REPLICA_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TIMEOUT_S = 4.5
"""Longer than any query waits."""
MAX_SILENCES = 2
"""A datagram may be lost once."""
MAX_TRIES = 64
"""Which of the replicas that share a port answers is up to the kernel, so each try comes from another port of ours."""


@dataclass
class ReplicaReport:
    """What one replica reports about a name."""

    address: str
    states: list[str] = field(default_factory=list)
    """`VM state`, for each VM of the name."""
    answer: list[str] = field(default_factory=list)
    """The rcode, and records."""
    fault: str = ""
    """Why there is no report from it."""

    is_silent_to_us: bool = False
    """It reports states only to clients in dns.exempt, and we are not one of them."""

    @property
    def might_start(self) -> str:
        """Why the question might start a VM, nothing if it cannot."""
        if self.is_silent_to_us:
            return "it might start a VM, and this replica tells us no states, as we are not in dns.exempt"
        cold = [state.rpartition(" ")[0] for state in self.states if not state.endswith(" ready")]
        return f"it might start {', '.join(cold)}" if cold else ""

    @property
    def belief(self) -> str:
        """What it believes of the name."""
        if self.is_silent_to_us:
            return "it does not tell us whether a VM has this name"
        return ", ".join(self.states) or "no VM has this name"


def replicas_at(leaves: Mapping[str, str]) -> dict[str, set[str]]:
    """Return HOST:PORT -> the replicas that serve there, from the leaves below jitsu/replica/."""
    found: dict[str, set[str]] = {}
    for path, value in leaves.items():
        replica, _, leaf = path.removeprefix(REPLICA_ROOT + "/").partition("/")
        if leaf == "address" and path.startswith(REPLICA_ROOT + "/"):
            found.setdefault(value, set()).add(replica)
    return found


@dataclass(frozen=True)
class ReplicaQuestion:
    """What is asked."""

    name: str
    rdtype: str


def checked_question(name: str, rdtype: str) -> ReplicaQuestion:
    """Return a question that can be asked; raises BadRequest."""
    try:
        dns.name.from_text(name)
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        raise BadRequest(f"{name!r} is not a DNS name: {error}") from None
    try:
        if " " in name or (dns.rdatatype.is_metatype(dns.rdatatype.from_text(rdtype)) and rdtype.upper() != "ANY"):
            raise ValueError
    except (dns.exception.DNSException, ValueError):
        what = f"{name!r} is not a DNS name" if " " in name else f"{rdtype!r} is not a type of DNS record to ask for"
        raise BadRequest(what, hint="for example `jitsu dig www.example.org AAAA`") from None
    return ReplicaQuestion(name, rdtype.upper())


def who_answers(address: str, wanted: set[str], timeout_s: float) -> set[str]:
    """Return which replicas at HOST:PORT answer what they are called (RFC 4892), which starts nothing."""
    heard: set[str] = set()
    silences = 0
    for _ in range(MAX_TRIES):
        if wanted <= heard or silences >= MAX_SILENCES:
            break
        try:
            heard.add(_ask("id.server.", "TXT", _server(address), "CH", timeout_s)[0])
        except (dns.exception.DNSException, OSError, ValueError):
            silences += 1
    return heard


def ask_replicas(
    question: ReplicaQuestion, address: str, replicas: Iterable[str], witness: str, *, summon: bool
) -> dict[str, ReplicaReport]:
    """Return what each replica on a port reports. Nothing is started unless `summon` says so.

    A replica reports the states of a name's VMs only to clients in dns.exempt. It answers REFUSED to other clients, and
    for names that no VM has. `witness` is the name of some VM: a client that gets its state is exempt.
    """
    reports = {replica: ReplicaReport(address, fault="does not answer") for replica in replicas}
    server = _server(address)
    try:
        for replica, found in _each(question.name, "TXT", server, "CH", set(reports)).items():
            reports[replica].states, reports[replica].fault = [text.strip('"') for text in found[1:]], ""
        heard = {replica for replica, each in reports.items() if not each.fault}
        unsure = {replica for replica in heard if not reports[replica].states}
        if unsure and witness and not summon:
            for replica, found in _each(witness, "TXT", server, "CH", unsure).items():
                reports[replica].is_silent_to_us = len(found) < 2
        asked = {replica for replica in heard if summon or not reports[replica].might_start}
        for replica in heard - asked:
            reports[replica].answer = [f"not asked: {reports[replica].might_start} (--summon)"]
        if asked == heard:  # those on one port cannot be chosen among
            for replica, found in _each(question.name, question.rdtype, server, "IN", heard).items():
                reports[replica].answer = found
        else:
            for replica in asked:
                reports[replica].answer = ["not asked: another replica on this port might start a VM (--summon)"]
    except (dns.exception.DNSException, OSError, ValueError) as error:
        for each in reports.values():
            if not each.answer:
                each.fault = str(error) or type(error).__name__
    return reports


def dig_lines(reports: Mapping[str, ReplicaReport]) -> list[str]:
    """Return what each replica says, a line for each."""
    lines = []
    for replica, each in sorted(reports.items()):
        said = each.fault or f"{each.belief}; {' '.join(each.answer)}"
        lines.append(f"{replica} at {each.address}: {said}")
    return lines


def _server(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return _reachable(host.strip("[]")), int(port)


def is_on_all_addresses(address: str) -> bool:
    """Return whether HOST:PORT is bound to all addresses of its machine."""
    host = address.rpartition(":")[0].strip("[]")
    return _reachable(host) != host


def _reachable(host: str) -> str:
    """Return where a server that is bound to all addresses is asked: on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _each(name: str, rdtype: str, server: tuple[str, int], rdclass: str, wanted: set[str]) -> dict[str, list[str]]:
    """Ask until all have answered, or MAX_TRIES is over."""
    found: dict[str, list[str]] = {}
    for _ in range(MAX_TRIES):
        if wanted <= set(found):
            break
        replica, answer = _ask(name, rdtype, server, rdclass)
        if replica in wanted:
            found[replica] = answer
    return found


def _ask(
    name: str, rdtype: str, server: tuple[str, int], rdclass: str, timeout_s: float = TIMEOUT_S
) -> tuple[str, list[str]]:
    """Return which replica answers, and its rcode and records as text."""
    nsid = dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")
    query = dns.message.make_query(name, rdtype, rdclass, options=[nsid])
    reply = dns.query.udp(query, server[0], port=server[1], timeout=timeout_s)
    replica, lines = "?", [dns.rcode.to_text(reply.rcode())]
    for option in reply.options:
        if option.otype == dns.edns.OptionType.NSID:
            replica = bytes(option.to_wire() or b"").decode("utf-8", "replace")
        elif isinstance(option, dns.edns.EDEOption) and option.text:
            lines[0] += f" ({option.text})"
    for rrset in reply.answer:
        with_type = "" if rrset.rdtype == dns.rdatatype.TXT else f"{dns.rdatatype.to_text(rrset.rdtype)} "
        lines += [f"{with_type}{rdata.to_text()}" for rdata in rrset]
    return replica, lines
