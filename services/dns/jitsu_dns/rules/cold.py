"""Queries that wait for VMs to become ready: which VMs to summon for a name, and what those who wait are answered.

A query that waits is answered at one of these events, whichever comes first:

    VmSummoned     vmd has made a VM of the name reachable. Everybody who waits for the name is answered; where all VMs
                   of the name are summoned, only when the last one is reachable. If the VM is still starting (`armed`),
                   it may fail yet, so until it is ready the answer has a TTL of EARLY_TTL_S
    VmReady        vmd has published that a VM of the name is ready: the same
    SummonRefused  another VM of the name is summoned. If none is left: SERVFAIL with the reason (RFC 8914)
    NodesChanged   the VM that was summoned has left the name, and no other is being summoned: SERVFAIL
    the deadline   max_wait of the VM is over. If vmd is heard and says that the VM is starting, the query is answered,
                   with a TTL of EARLY_TTL_S unless the VM is ready; else, or with on_timeout = servfail: SERVFAIL

Without a lease, the reaper does not count what this replica answers, and a summon may never have reached vmd. A VM that
is published as ready may then be stopped at any moment, so only vmd's reply to a summon lets it be given out, and only
for REPLY_MAX_AGE_S: after that vmd is asked again (G3).

If the guest has other addresses than are configured here, vmd and this replica have not yet heard the same from the
store. That takes milliseconds, so vmd is asked again after SUMMON_AGAIN_S.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from jitsu_dns.rules.events import (
    ClientGone,
    ColdQueryReceived,
    NodesChanged,
    RecordWait,
    SendResponse,
    SummonRefused,
    SummonVm,
    VmReady,
    VmSummoned,
)
from jitsu_dns.rules.lookup import Hit
from jitsu_dns.rules.message import Ede, Rcode
from jitsu_dns.rules.pending import Pending, WaitingQuery
from jitsu_dns.rules.states import UNDER_WAY, has_addresses
from jitsu_protocol.model.errors import BackingOff, BootFailed, TimedOut
from jitsu_protocol.model.lifetimes import REPLY_MAX_AGE_S
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import OnTimeout, SummonMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitsu_dns.rules.events import Reply
    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.lookup import Held, Node
    from jitsu_dns.rules.rates import SummonLimit
    from jitsu_dns.rules.responder import Responder
    from jitsu_dns.rules.states import States
    from jitsu_dns.rules.table import Table
    from jitsu_dns.rules.usage import NameUsage
    from jitsu_protocol.model.errors import JitsuError

EARLY_TTL_S = 1
"""An answer that is given before its VM is ready must not be cached for longer: that VM may fail to start."""
SUMMON_AGAIN_S = 0.02
_IS_THERE = frozenset({VmState.READY, VmState.DRAINING})
_PREFERRED = (VmState.READY, VmState.DRAINING, VmState.BOOTING, VmState.STARTING, VmState.PAUSED, VmState.SUSPENDED)

Event = ColdQueryReceived | ClientGone | VmSummoned | VmReady | SummonRefused | NodesChanged
Action = SummonVm | SendResponse | RecordWait


@dataclass(slots=True)
class _Summons:
    """The summons that the queries of one name wait for."""

    qtype: int
    outstanding: set[str]
    tried: set[str]
    reached: set[str] = field(default_factory=set)
    early: set[str] = field(default_factory=set)
    """Those of `reached` that were still starting when vmd answered."""


class _Asked(NamedTuple):
    """A summon that vmd has been asked for."""

    at: float
    ends: float
    """When those who wait for it give up."""
    by: str = ""
    """The token of the query that caused it."""


class ColdQueries:
    """The queries of one replica that wait, and the summons that they wait for."""

    def __init__(
        self, table: Table, usage: NameUsage, states: States, limit: SummonLimit, max_waiting: int, responder: Responder
    ) -> None:
        self._table, self._usage, self._states = table, usage, states
        self.limit = limit
        """The limit on who may start VMs; it is replaced when the settings change."""
        self.pending = Pending(max_waiting)
        self._responder = responder
        self._summoning: dict[str, _Asked] = {}
        self._summons: dict[Node, _Summons] = {}
        self._actions: list[Action] = []

    def handle(self, event: Event, now: float) -> Sequence[Action | Reply]:
        """Return what is to be done because of an event."""
        reply = None
        match event:
            case ColdQueryReceived(exchange, hit):
                reply = self._wait(exchange, hit, now)
            case ClientGone(client):
                self.pending.drop_client(client)
            case VmSummoned():
                self._summoned(event, now)
            case VmReady(vm):
                if self._usage.lease.holds(now):
                    self._reached(vm, now, armed=False)
            case SummonRefused(vm, error):
                self._refused(vm, error, now)
            case NodesChanged(nodes):
                self._changed(nodes, now)
        return [reply, *self._flush()] if reply is not None else self._flush()

    def deadline(self) -> float | None:
        """Return when the next query has waited for long enough."""
        return self.pending.deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Answer the queries whose max_wait is over."""
        for waiting in self.pending.due(now):
            self._responder.counts.late += 1
            held = waiting.hit.node.of_type(waiting.hit.qtype)
            starting = [
                each for each in held if each.vm.on_timeout is OnTimeout.ANSWER and self._may_give_out(each, now)
            ]
            vm = held[0].vm.name if held else "it"
            state = self._states.of(held[0].vm.uuid) if held else VmState.UNKNOWN
            if starting:
                self._answer(waiting, starting, now, early=not all(map(self._is_there, starting)))
            elif held and self._is_under_way(held[0]) and not self._is_there(held[0]):
                self._servfail(waiting, (Ede.NOT_READY, f"{vm} is still {state}"))
            else:
                self._servfail(waiting, (Ede.NETWORK_ERROR, f"{vm}: the VM daemon does not answer"))
        return self._flush()

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # --- a query comes ---

    def _wait(self, exchange: Exchange, hit: Hit, now: float) -> Reply | None:
        """Let a query wait for the VMs of a name; return what is answered at once if it may not."""
        node, vms = hit.node, hit.node.of_type(hit.qtype)
        chosen: set[str] = set()
        if node not in self._summons:
            chosen = self._choose(node, hit.qtype, set())
            new = sum(vm not in self._summoning and self._states.of(vm) not in UNDER_WAY for vm in chosen)
            if new and (reason := self.limit.refusal(exchange.client.address, new, now)):
                return self._denied(exchange, Rcode.REFUSED, (Ede.PROHIBITED, reason))
        max_wait = min(held.vm.max_wait for held in vms)
        waiting = WaitingQuery(exchange, hit, exchange.arrived + max_wait)
        if not self.pending.add(waiting):
            self._responder.counts.overflow += 1
            return self._denied(exchange, Rcode.SERVFAIL, (Ede.OTHER, "too many queries wait"))
        if chosen:
            self._summons[node] = _Summons(hit.qtype, chosen, set(chosen))
        summons = self._summons[node]
        for held in vms:
            if held.vm.uuid in summons.outstanding:
                self._usage.used(held, 1, now)
        for vm in chosen:
            if vm not in self._summoning:
                by = self._caused(vm, waiting)
                self._summon(vm, max_wait, now, by, now - exchange.arrived)
        return None

    def _denied(self, exchange: Exchange, rcode: Rcode, error: tuple[Ede, str]) -> Reply:
        return self._responder.respond(exchange, rcode, "denied", error=error)

    def _choose(self, node: Node, qtype: int, tried: set[str]) -> set[str]:
        """Return which VMs of a name to summon: all, or the one that is nearest to being ready and not tried yet."""
        vms = [held.vm.uuid for held in node.of_type(qtype) if held.vm.uuid not in tried]
        if not vms or self._wants_all(node):
            return set(vms)
        node.turn += 1
        first = node.turn % len(vms)
        return {min([*vms[first:], *vms[:first]], key=self._distance)}

    def _distance(self, vm: str) -> int:
        state = self._states.of(vm)
        if state in _PREFERRED:
            return _PREFERRED.index(state)
        return len(_PREFERRED) + (state is VmState.FAILED)

    @staticmethod
    def _wants_all(node: Node) -> bool:
        return any(held.vm.summon is SummonMode.ALL for held in node.held)

    def _summon(self, vm: str, timeout: float, now: float, by: str, waited_s: float = 0.0) -> None:
        if vm not in self._summoning:
            self._summoning[vm] = _Asked(now, now + timeout, by)
            self._actions.append(SummonVm(vm, timeout, waited_s=waited_s, by=by))

    def _caused(self, vm: str, query: WaitingQuery | None) -> str:
        """Note whose query has a VM summoned, and return the token of that summon."""
        held = None if query is None else next((each for each in query.hit.node.held if each.vm.uuid == vm), None)
        if query is None or held is None:
            return ""
        return self._usage.caused(held, query.hit.qtype, query.exchange.client.address, query.exchange.arrived)

    # --- what happens to the VMs ---

    def _summoned(self, event: VmSummoned, now: float) -> None:
        """Handle an answer of vmd: everybody may be given the VM's addresses, if they are those that are known here."""
        held, asked = self._table.held_by(event.vm), self._summoning.get(event.vm, _Asked(now, now))
        if held and not has_addresses(held[0].vm, event.addresses) and now + SUMMON_AGAIN_S < asked.ends:
            self._actions.append(SummonVm(event.vm, asked.ends - now, SUMMON_AGAIN_S, by=asked.by))
        elif now > asked.at + REPLY_MAX_AGE_S and not self._usage.lease.holds(now):
            self._refused(event.vm, TimedOut("vmd has replied too long ago"), now)
        else:
            self._reached(event.vm, now, armed=event.armed)

    def _reached(self, vm: str, now: float, *, armed: bool) -> None:
        self._summoning.pop(vm, None)
        for held in self._table.held_by(vm):
            summons = self._summons.get(held.node)
            if summons is None:
                continue
            summons.reached.add(vm)
            if armed:
                summons.early.add(vm)
            else:
                summons.early.discard(vm)
            summons.outstanding.discard(vm)
            if not summons.outstanding or not self._wants_all(held.node):
                self._release(held.node, now)

    def _refused(self, vm: str, error: JitsuError, now: float) -> None:
        asked = self._summoning.pop(vm, None)
        for held in self._table.held_by(vm):
            node = held.node
            summons = self._summons.get(node)
            if summons is None or vm not in summons.outstanding:
                continue
            summons.outstanding.discard(vm)
            left = self.pending.last_deadline(node) - now
            if isinstance(error, TimedOut):
                if left > 0:  # those who came later still have time
                    summons.outstanding.add(vm)
                    self._summon(vm, left, now, "" if asked is None else asked.by)
                elif not summons.outstanding:
                    self._summons.pop(node)
                continue
            if not self._wants_all(node) and left > 0:
                summons.outstanding.update(self._choose(node, summons.qtype, summons.tried))
                summons.tried |= summons.outstanding
                for other in summons.outstanding:
                    self._summon(other, left, now, self._caused(other, self.pending.first(node)))
            if not summons.outstanding:
                self._release(node, now, error)

    def _changed(self, nodes: Iterable[Node], now: float) -> None:
        """Handle changed names: nobody waits any longer for a VM that has left its name."""
        for node in nodes:
            summons = self._summons.get(node)
            if summons is None:
                continue
            summons.outstanding &= {held.vm.uuid for held in node.held}
            if not summons.outstanding:
                self._release(node, now, BootFailed("it is no longer configured"))

    def _is_there(self, held: Held) -> bool:
        return self._states.of(held.vm.uuid) in _IS_THERE

    def _is_under_way(self, held: Held) -> bool:
        return self._states.is_under_way(held.vm.uuid, held.vm.host)

    def _may_give_out(self, held: Held, now: float) -> bool:
        """Say whether a VM of which vmd has not spoken yet may be given out because of its state (G3)."""
        return self._is_under_way(held) and (not self._is_there(held) or self._usage.lease.holds(now))

    # --- answers ---

    def _release(self, node: Node, now: float, error: JitsuError | None = None) -> None:
        """Answer everybody who waits for a name: with the VMs that are reachable, or with the reason why none is."""
        summons, counted_on = self._summons.pop(node), self._usage.lease.holds(now)
        for waiting in self.pending.release(node):
            reached = [
                held
                for held in node.of_type(waiting.hit.qtype)
                if held.vm.uuid in summons.reached or (counted_on and self._states.serves(held.vm))
            ]
            if reached:
                early = any(held.vm.uuid in summons.early and not self._is_there(held) for held in reached)
                self._answer(waiting, reached, now, early=early)
            else:
                self._servfail(waiting, error_for(error or TimedOut("the VM is not ready")))

    def _answer(self, waiting: WaitingQuery, held: Sequence[Held], now: float, *, early: bool) -> None:
        exchange, query = waiting.exchange, waiting.exchange.query
        for each in held:
            self._usage.used(each, 0, now)  # the answer's TTL runs from now on (G3)
        found = self._table.find(query.key, query.qtype)
        hit = found if isinstance(found, Hit) else waiting.hit  # the name may be configured otherwise by now
        records = hit.records(held, max_ttl=EARLY_TTL_S if early else None)
        reply = self._responder.respond(exchange, Rcode.NOERROR, "cold", records, authoritative=True)
        self._actions += [RecordWait(now - exchange.arrived), SendResponse(exchange.client.id, reply.data)]

    def _servfail(self, waiting: WaitingQuery, error: tuple[Ede, str]) -> None:
        exchange = waiting.exchange
        reply = self._responder.respond(exchange, Rcode.SERVFAIL, "cold", authoritative=True, error=error)
        self._actions.append(SendResponse(exchange.client.id, reply.data))


def error_for(error: JitsuError) -> tuple[Ede, str]:
    """Return the extended error for a reason: the one place where codes become RFC 8914's."""
    if isinstance(error, BackingOff):
        wait = f"; a query can start it again in {error.retry_after:.1f} s" if error.retry_after else ""
        return Ede.CACHED_ERROR, f"{error.message}{wait}"
    if isinstance(error, BootFailed):
        return Ede.OTHER, f"boot failed: {error.message}"
    return Ede.NOT_READY, error.message
