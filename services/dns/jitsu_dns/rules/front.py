"""A replica: which answer a query gets, and when.

A datagram comes to `warm.answers` first: if the same packet was answered before, and no VM in that answer has changed
its state, it gets the same bytes again. Any other query goes down this ladder; the first rung that fits answers it:

    malformed    it cannot be read                              nothing, or FORMERR, NOTIMP; or a cookie (message.py)
    version      an EDNS version that does not exist yet        BADVERS
    CHAOS        it asks about the server itself                chaos.py
    class, type  neither IN nor a type that has records         REFUSED, FORMERR
    transfer     a secondary wants a whole zone                 transfer.py
    unknown      a VM that is not known yet may have the name   it is held until it is known (contents.py, unknown.py)
    ours         the answer has addresses of VMs                from the table if one of them is ready and the reaper
                                                                counts on this replica (warm.py), else when vmd has
                                                                summoned one (cold.py)
                 any other record, or none, in a zone of ours   from the table (lookup.py)
    outside      the name is in no zone of ours                 forwarded, or REFUSED (outside.py)

On each rung the answer to a client that has not shown its address is limited (rates.py), before work is done for it.
`handle`, `deadline` and `tick` are those of all machines (jitsu_protocol.machine); the parts have them as well, and the
front asks each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_dns.rules import chaos, cold, forward, notify, transfer
from jitsu_dns.rules.chaos import Chaos
from jitsu_dns.rules.cold import ColdQueries
from jitsu_dns.rules.contents import Contents
from jitsu_dns.rules.events import (
    ClientGone,
    ColdQueryReceived,
    Drop,
    NamesRemembered,
    NamesTold,
    QueryReceived,
    Reply,
    ReportDrain,
    SendResponse,
    SendZone,
    StatePublished,
    StatesReceived,
    SummonRefused,
    TurnCame,
    VmReady,
    VmsChanged,
    VmSummoned,
)
from jitsu_dns.rules.forward import AttemptFailed, Question, ResponseReceived, ServersChanged
from jitsu_dns.rules.lookup import Hit
from jitsu_dns.rules.message import CHAOS, IN, Ede, Malformed, Rcode, Type, parse
from jitsu_dns.rules.names import Known, Names
from jitsu_dns.rules.notify import NotifyAnswered
from jitsu_dns.rules.outside import Outside
from jitsu_dns.rules.responder import Counts, Responder
from jitsu_dns.rules.special import SpecialNames
from jitsu_dns.rules.states import States
from jitsu_dns.rules.transfer import Transfers
from jitsu_dns.rules.unknown import HeldQuestions
from jitsu_dns.rules.warm import WarmAnswers
from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_dns.rules.exchange import Client, Exchange, ServerIdentity
    from jitsu_dns.rules.forward import Forwarder
    from jitsu_dns.rules.lookup import Fixed
    from jitsu_dns.rules.notify import Notifier
    from jitsu_dns.rules.rates import ResponseLimit, SummonLimit
    from jitsu_dns.rules.table import Table
    from jitsu_dns.rules.usage import NameUsage
    from jitsu_protocol.messages import VmStatus

META_TYPES = frozenset({Type.AXFR, Type.IXFR, Type.OPT, 0})
"""Types of which there are no records in a zone."""

Event = (
    QueryReceived | ClientGone | StatePublished | StatesReceived | VmSummoned | SummonRefused | VmsChanged
    | NamesRemembered | NamesTold | TurnCame | ResponseReceived | AttemptFailed | ServersChanged | NotifyAnswered
)  # fmt: skip
Answer = Reply | Drop
Action = Answer | SendZone | ReportDrain | cold.Action | forward.Action | notify.Action


@dataclass(frozen=True)
class Limits:
    """What clients may have of a replica."""

    max_waiting: int
    """Queries that wait, and as many that are held."""
    summons: SummonLimit
    responses: ResponseLimit


@dataclass(frozen=True)
class Others:
    """What a replica may have besides its zones."""

    forwarder: Forwarder | None = None
    special: SpecialNames = field(default_factory=SpecialNames)
    notifier: Notifier | None = None
    """It also knows who may transfer zones."""
    names: Names | None = None
    """What the store says; without it, VmsChanged says everything that there is."""


class Front:
    """One replica."""

    def __init__(
        self, table: Table, usage: NameUsage, limits: Limits, identity: ServerIdentity, others: Others | None = None
    ) -> None:
        others = others or Others()
        self.usage = usage
        self.states = States()
        self._identity = identity
        self.responder = responder = Responder(limits.responses, Counts())
        self.warm = WarmAnswers(usage, self.states, responder)
        self.cold = ColdQueries(table, usage, self.states, limits.summons, limits.max_waiting, responder)
        self.notifier = notifier = others.notifier
        names = Names() if others.names is None else others.names
        if others.names is None:
            names.known = Known.TOLD
        self.contents = Contents(table, names, self.warm, self.cold, notifier)
        self.held = HeldQuestions(limits.max_waiting)
        self.outside = Outside(others.forwarder, others.special, table, responder)
        self._chaos = Chaos(identity.about, table, self.states, responder)
        secondaries = () if notifier is None else notifier.secondaries
        self._transfers = Transfers(table, {ip_address(address).packed for address, _ in secondaries}, responder)

    # --- the machine ---

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return what is to be done because of an event."""
        if isinstance(event, QueryReceived):  # most events are; a `match` takes longer
            return self._query(event, now)
        match event:
            case ResponseReceived() | AttemptFailed() | ServersChanged():
                return self.outside.handle(event, now)
            case VmSummoned() | SummonRefused():
                return self.cold.handle(event, now)
            case StatePublished(status, gone):
                return self._state_changed(status, gone, now)
            case StatesReceived():
                return self._states_received(event, now)
            case ClientGone(client):
                self.held.drop_client(client)
                return [*self.cold.handle(event, now), *self.outside.handle(event, now)]
            case NotifyAnswered() if self.notifier is not None:
                return self.notifier.handle(event, now)
            case NamesRemembered() | VmsChanged():
                return self.contents.handle(event, now)
            case NamesTold():
                return [*self.contents.handle(event, now), *self._look_again(now)]
            case TurnCame():
                return self._turn_came(event, now)
        return ()

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        parts = (self.cold, self.outside, self.held, *(() if self.notifier is None else (self.notifier,)))
        found = [part.deadline() for part in parts]
        if len(self.held):
            found.append(self.contents.deadline())
        return min((each for each in found if each is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """Look at the clock."""
        actions: list[Action] = [*self.cold.tick(now), *self.outside.tick(now)]
        if self.contents.tick(now):
            actions += self._look_again(now)
        actions += [SendResponse(each.client.id, self._unheld(each).data) for each in self.held.due(now)]
        if self.notifier is not None:
            actions += self.notifier.tick(now)
        return actions

    @property
    def waiting(self) -> int:
        """How many queries wait for a VM or for another server."""
        return len(self.cold.pending) + len(self.outside)

    # --- the ladder ---

    def _query(self, event: QueryReceived, now: float) -> Sequence[Action]:
        query = parse(event.data)
        if isinstance(query, Malformed):
            self.responder.counts.malformed += 1
            return self._malformed(event.data, query, event.client, now)
        return self._answer(self._identity.exchange(event.data, query, event.client, now), now)

    def _answer(self, exchange: Exchange, now: float) -> Sequence[Action]:
        query = exchange.query
        if query.qclass != IN or query.qtype in META_TYPES or (query.edns is not None and query.edns.version != 0):
            return [self.responder.over_limit(exchange, "other", now) or self._not_of_a_zone(exchange)]
        if self.contents.names.is_complete:
            return self._known(exchange, now)
        is_unknown, made = self.contents.look_for(query.key, now)
        return [*made, *(self._hold(exchange, now) if is_unknown else self._known(exchange, now))]

    def _malformed(self, data: bytes, query: Malformed, client: Client, now: float) -> Sequence[Action]:
        if query.reply is None:
            return ()
        if query.cookie is not None:
            is_proven = self._identity.is_proven(query.cookie, client, now)
            if is_proven or self.responder.may_send(client, "cookie", now):
                return [Reply(self._identity.cookie_reply(data, query.cookie, client, now))]
            return ()
        return [Reply(query.reply)] if self.responder.may_send(client, (Rcode.FORMERR,), now) else ()

    def _not_of_a_zone(self, exchange: Exchange) -> Answer | SendZone:
        """Answer what is not asked about the records of a zone."""
        query, respond = exchange.query, self.responder.respond
        if query.edns is not None and query.edns.version != 0:
            return respond(exchange, Rcode.BADVERS, "other")
        if query.qclass == CHAOS and query.qtype in chaos.TYPES:
            return self._chaos.answer(exchange)
        if query.qclass != IN:
            return respond(exchange, Rcode.REFUSED, "other", error=(Ede.PROHIBITED, ""))
        if query.qtype in transfer.TYPES:
            return self._transfers.answer(exchange, is_complete=self.contents.names.is_complete)
        return respond(exchange, Rcode.FORMERR, "other")

    def _known(self, exchange: Exchange, now: float) -> Sequence[Action]:
        """Answer a question about a name of which everything is known."""
        query = exchange.query
        found = self.contents.table.find(query.key, query.qtype)
        if isinstance(found, Hit):
            return self._hit(exchange, found, now)
        if found is None:
            if self.outside.is_for(exchange):
                return self.outside.ask(Question(exchange), now)
            return [self.outside.refuse(exchange, now)]
        if found.leads_outside and self.outside.is_for(exchange):
            return self.outside.ask(Question(exchange, found.records, found.leads_outside), now)
        return [self._fixed(exchange, found, now)]

    def _hit(self, exchange: Exchange, hit: Hit, now: float) -> Sequence[Action]:
        if (reply := self.warm.answer(exchange, hit, now)) is not None:
            return [reply]
        instead = self.responder.over_limit(exchange, ("cold", exchange.query.question.lower()), now)
        return self.cold.handle(ColdQueryReceived(exchange, hit), now) if instead is None else [instead]

    def _fixed(self, exchange: Exchange, found: Fixed, now: float) -> Answer:
        """Answer with records that depend on no VM's state."""
        alike = (found.rcode, found.zone if found.rcode is Rcode.NXDOMAIN else exchange.query.question.lower())
        if (instead := self.responder.over_limit(exchange, alike, now)) is not None:
            return instead
        return self.responder.respond(exchange, found.rcode, "fixed", found.records, authoritative=True)

    # --- questions that are held ---

    def _hold(self, exchange: Exchange, now: float) -> Sequence[Action]:
        if (instead := self.responder.over_limit(exchange, "unknown", now)) is not None:
            return [instead]
        # It has been charged for, so it is not limited again when it is looked at again.
        return () if self.held.hold(replace(exchange, is_proven=True)) else [self._unheld(exchange)]

    def _unheld(self, exchange: Exchange) -> Reply:
        error = (Ede.NOT_READY, "this server does not know all names yet")
        return self.responder.respond(exchange, Rcode.SERVFAIL, "other", error=error)

    def _look_again(self, now: float) -> list[Action]:
        """Look again at all questions that are held."""
        actions: list[Action] = []
        for exchange in self.held.release():
            for action in self._answer(exchange, now):
                if isinstance(action, Reply):
                    action = SendResponse(exchange.client.id, action.data)
                actions.append(action)
        return actions

    def _turn_came(self, event: TurnCame, now: float) -> Sequence[Action]:
        was_complete = not self.contents.names.left
        actions = self.contents.handle(event, now)
        if was_complete or self.contents.names.left:
            return actions
        return [*actions, *self._look_again(now)]

    # --- the states of the VMs ---

    def _states_received(self, event: StatesReceived, now: float) -> Sequence[Action]:
        """Replace the states of all VMs of one host."""
        for vm in self.states.on_host(event.host):
            self.warm.invalidate(self.contents.table.held_by(vm))
            self.states.forget(vm)
        return [action for status in event.statuses for action in self._state_changed(status, False, now)]

    def _state_changed(self, status: VmStatus, gone: bool, now: float) -> Sequence[Action]:
        if gone and self.states.moved_away(status):
            return ()  # its new host has said so first
        held_by = self.contents.table.held_by(status.uuid)
        self.warm.invalidate(held_by)
        if gone:
            self.states.forget(status.uuid)
            return ()
        self.states.put(status)
        if status.state is VmState.DRAINING:
            return [ReportDrain()]
        if any(self.states.serves(held.vm) for held in held_by):
            return self.cold.handle(VmReady(status.uuid), now)
        return ()
