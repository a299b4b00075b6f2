"""Asking the dns replicas themselves: what each believes, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.edns
import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from jitsu_protocol.vm import REPLICA_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TIMEOUT_S = 4.5
"""Longer than any query waits."""
MAX_TRIES = 64
"""Replicas that share a port are told apart by who happens to answer: each try is another port of ours."""


@dataclass
class Told:
    """What one replica says."""

    address: str
    states: list[str] = field(default_factory=list)
    """`VM state`, for each VM of the name."""
    answer: list[str] = field(default_factory=list)
    """The rcode, and records."""
    fault: str = ""
    """Why nothing was heard of it."""

    @property
    def is_cold(self) -> bool:
        """Whether the question would start a VM."""
        return bool(self.states) and not any(state.endswith(" ready") for state in self.states)


def replicas_at(leaves: Mapping[str, str]) -> dict[str, set[str]]:
    """Return HOST:PORT -> the replicas that serve there, from the leaves below jitsu/replica/."""
    found: dict[str, set[str]] = {}
    for path, value in leaves.items():
        replica, _, leaf = path.removeprefix(REPLICA_ROOT + "/").partition("/")
        if leaf == "address":
            found.setdefault(value, set()).add(replica)
    return found


def ask_replicas(name: str, rdtype: str, address: str, replicas: Iterable[str], *, summon: bool) -> dict[str, Told]:
    """Return what each replica on a port says. Nothing is started unless `summon` says so."""
    told = {replica: Told(address, fault="not heard") for replica in replicas}
    host, _, port = address.rpartition(":")
    server = (_reachable(host.strip("[]")), int(port))
    try:
        for replica, found in _each(name, "TXT", server, "CH", set(told)).items():
            told[replica].states, told[replica].fault = [text.strip('"') for text in found[1:]], ""
        heard = {replica for replica, each in told.items() if not each.fault}
        cold = {replica for replica in heard if told[replica].is_cold and not summon}
        for replica in cold:
            told[replica].answer = ["not asked: it would start a VM (--summon)"]
        if not cold:
            for replica, found in _each(name, rdtype, server, "IN", heard).items():
                told[replica].answer = found
    except (dns.exception.DNSException, OSError, ValueError) as error:
        for each in told.values():
            each.fault = each.fault and (str(error) or type(error).__name__)
    return told


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


def _ask(name: str, rdtype: str, server: tuple[str, int], rdclass: str) -> tuple[str, list[str]]:
    """Return which replica answers, and its rcode and records as text."""
    nsid = dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")
    query = dns.message.make_query(name, rdtype, rdclass, options=[nsid])
    reply = dns.query.udp(query, server[0], port=server[1], timeout=TIMEOUT_S)
    replica, told = "?", [dns.rcode.to_text(reply.rcode())]
    for option in reply.options:
        if option.otype == dns.edns.OptionType.NSID:
            replica = bytes(option.to_wire() or b"").decode("utf-8", "replace")
        elif isinstance(option, dns.edns.EDEOption) and option.text:
            told[0] += f" ({option.text})"
    for rrset in reply.answer:
        with_type = "" if rrset.rdtype == dns.rdatatype.TXT else f"{dns.rdatatype.to_text(rrset.rdtype)} "
        told += [f"{with_type}{rdata.to_text()}" for rdata in rrset]
    return replica, told
