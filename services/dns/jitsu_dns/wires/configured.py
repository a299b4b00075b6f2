"""Builds the rules of a replica from its settings."""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

from jitsu_dns.rules.cookies import SECRET_BYTES, Cookies
from jitsu_dns.rules.exchange import SelfDescription, ServerIdentity
from jitsu_dns.rules.forward import Forwarder
from jitsu_dns.rules.front import Front, Limits, Others
from jitsu_dns.rules.lookup import Wildcards
from jitsu_dns.rules.names import Names
from jitsu_dns.rules.notify import Notifier
from jitsu_dns.rules.rates import ResponseLimit, SummonLimit
from jitsu_dns.rules.records import Authority, conflicts, parse_static
from jitsu_dns.rules.special import SpecialNames
from jitsu_dns.rules.table import Table
from jitsu_dns.wires.interfaces import served_addresses
from jitsu_protocol.model.errors import SetupFault
from jitsu_protocol.rates import Networks

if TYPE_CHECKING:
    from jitsu_dns.rules.usage import NameUsage
    from jitsu_dns.wires.servers import Servers
    from jitsu_dns.wires.sockets import Sockets
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.schema import DnsSettings


def front_of(settings: DnsSettings, usage: NameUsage, servers: Servers | None, sockets: Sockets, clock: Clock) -> Front:
    """Return the rules as they are configured; raises SetupFault."""
    try:
        static = [parse_static(line) for line in settings.records]
    except ValueError as error:
        raise SetupFault(f"dns.records: {error}") from None
    if clashes := conflicts(static, settings.zones):
        raise SetupFault(f"dns.records: {'; '.join(clashes)}", hint="remove one of the records")
    glue: dict[str, tuple[str, ...]] = {}
    for name, address in settings.glue:
        glue[name] = (*glue.get(name, ()), str(address))
    authority = Authority(
        mname=settings.mname,
        rname=settings.rname,
        nameservers=tuple(settings.nameservers),
        glue=glue,
        own_addresses=served_addresses(settings.bind, sockets.interfaces) or (),
    )
    table = Table(
        settings.zones,
        authority,
        static,
        wildcards=Wildcards(frozenset(label.encode() for label in settings.wildcard_exclude), settings.wildcard_labels),
        notes_changes=bool(settings.secondaries),
    )
    secondaries = settings.secondaries
    responses = ResponseLimit(settings.response_rate, Networks(settings.exempt))
    return Front(
        table,
        usage,
        Limits(settings.max_waiting, summon_limit(settings), responses),
        ServerIdentity(
            SelfDescription(settings.version, settings.replica, settings.tcp_idle),
            Cookies(settings.cookie_secret or secrets.token_bytes(SECRET_BYTES)),
            clock.wall() - clock.now(),
        ),
        Others(
            forwarder=_forwarder(servers, responses, sockets.max_forwards),
            special=SpecialNames(settings.forward_special),
            notifier=Notifier(secondaries, table.soa_of, random.SystemRandom()) if secondaries else None,
            names=Names(),
        ),
    )


def summon_limit(settings: DnsSettings) -> SummonLimit:
    """Return who may start VMs, and how many."""
    allowed, exempt = Networks(settings.summon_for), Networks(settings.exempt)
    return SummonLimit(allowed, exempt, settings.summon_rate, settings.summon_burst)


def _forwarder(servers: Servers | None, responses: ResponseLimit, most: int) -> Forwarder | None:
    if servers is None:
        return None
    found = servers.found
    clients = Networks(found.networks)
    return Forwarder(found.servers, clients, random.SystemRandom(), responses, most)
