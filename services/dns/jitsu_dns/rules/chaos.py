"""What a replica says about itself: questions of class CHAOS (RFC 4892), which concern no zone.

version.bind, version.server    the version, if dns.version says one
id.server, hostname.bind        the name of the replica
the name of a VM                the states of its VMs, for clients in dns.exempt; no VM is started for this
anything else                   REFUSED
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules import records as build
from jitsu_dns.rules.lookup import Hit
from jitsu_dns.rules.message import CHAOS, Rcode, Type, to_wire

if TYPE_CHECKING:
    from jitsu_dns.rules.events import Reply
    from jitsu_dns.rules.exchange import Exchange, SelfDescription
    from jitsu_dns.rules.responder import Responder
    from jitsu_dns.rules.states import States
    from jitsu_dns.rules.table import Table

TYPES = frozenset({Type.TXT, Type.ANY})
VERSION_NAMES = frozenset({to_wire("version.bind"), to_wire("version.server")})
ID_NAMES = frozenset({to_wire("id.server"), to_wire("hostname.bind")})


class Chaos:
    """Answers questions about the server."""

    def __init__(self, about: SelfDescription, table: Table, states: States, responder: Responder) -> None:
        self._about, self._table, self._states, self._responder = about, table, states, responder

    def answer(self, exchange: Exchange) -> Reply:
        """Answer a question of class CHAOS and type TXT or ANY."""
        texts = self._texts(exchange)
        if not texts:
            return self._responder.respond(exchange, Rcode.REFUSED, "other")
        return self._responder.respond(exchange, Rcode.NOERROR, "other", build.texts(texts, CHAOS))

    def _texts(self, exchange: Exchange) -> list[str]:
        name = exchange.query.key
        if name in VERSION_NAMES and self._about.version:
            return [self._about.version]
        if name in ID_NAMES:
            return [self._about.replica]
        if exchange.client.address not in self._responder.limit.exempt:
            return []
        found = [self._table.find(name, rtype) for rtype in (Type.A, Type.AAAA)]
        vms = {held.vm.uuid: held.vm for hit in found if isinstance(hit, Hit) for held in hit.node.held}
        return [f"{vm.name} {self._states.of(uuid)}" for uuid, vm in vms.items()]
