"""Queries that wait for VMs to become ready: whom to summon for a name, and what those who wait are answered.

Summoned           everybody who waits is answered; where all VMs of the name are summoned, when all are. If it says
                   `armed`, the VM may still fail: until it is ready the answer has a TTL of EARLY_TTL_S
a reason not to    another VM of the name is summoned; none left: SERVFAIL with the reason (RFC 8914)
max_wait over      answered anyway if vmd is heard and says that it starts, unless on_timeout = servfail; with a TTL
                   of EARLY_TTL_S too, unless the VM is ready
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_dns.rules.actions import AskSummon, Send
from jitsu_dns.rules.message import Ede, Rcode, respond
from jitsu_dns.rules.pending import Pending, Waiting
from jitsu_dns.rules.replies import error_for, with_error
from jitsu_dns.rules.states import UNDER_WAY
from jitsu_dns.rules.table import Hit
from jitsu_protocol.model.errors import BootFailed, TimedOut
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import OnTimeout, SummonMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitsu_dns.rules.access import SummonLimit
    from jitsu_dns.rules.actions import Action, Asker, Counts
    from jitsu_dns.rules.message import Extras, Query
    from jitsu_dns.rules.states import States
    from jitsu_dns.rules.table import Held, Node, Table
    from jitsu_dns.rules.uses import Uses
    from jitsu_protocol.model.errors import JitsuError

EARLY_TTL_S = 1
"""An answer that is given before its VM is ready is not kept for longer, because that VM may fail to start."""
_IS_THERE = frozenset({VmState.READY, VmState.DRAINING})
_PREFERRED = (VmState.READY, VmState.DRAINING, VmState.BOOTING, VmState.STARTING, VmState.PAUSED, VmState.SUSPENDED)


@dataclass(frozen=True)
class Refusal:
    """A query that may not wait: how it is answered at once."""

    rcode: Rcode
    code: Ede
    text: str


@dataclass(slots=True)
class _Asked:
    """The summons that the queries of one name wait for."""

    qtype: int
    outstanding: set[str]
    tried: set[str]
    reached: set[str] = field(default_factory=set)
    early: set[str] = field(default_factory=set)
    """Those of `reached` that were still starting when vmd answered."""


class ColdQueries:
    """The queries of one replica that wait, and the summons that they wait for."""

    def __init__(
        self, table: Table, uses: Uses, states: States, pending: Pending, counts: Counts, actions: list[Action]
    ) -> None:
        """What is to be done is appended to `actions`."""
        self._table, self._uses, self._states = table, uses, states
        self._pending, self._counts, self._actions = pending, counts, actions
        self._summoning: set[str] = set()
        self._asked: dict[Node, _Asked] = {}

    # --- queries ---

    def wait(
        self, query: Query, asker: Asker, hit: Hit, extras: Extras, limit: SummonLimit, now: float, arrived: float
    ) -> Refusal | None:
        """Let a query, which came at `arrived`, wait for the VMs of a name; return why it may not."""
        node, vms = hit.node, hit.node.of_type(hit.qtype)
        chosen: set[str] = set()
        if node not in self._asked:
            chosen = self._choose(node, hit.qtype, set())
            new = sum(vm not in self._summoning and self._states.of(vm) not in UNDER_WAY for vm in chosen)
            if new and (reason := limit.refusal(asker.address, new, now)):
                return Refusal(Rcode.REFUSED, Ede.PROHIBITED, reason)
        max_wait = min(held.vm.max_wait for held in vms)
        waiting = Waiting(query, asker.client, asker.udp, hit, extras, arrived, arrived + max_wait)
        if not self._pending.add(waiting):
            self._counts.overflow += 1
            return Refusal(Rcode.SERVFAIL, Ede.OTHER, "too many queries wait")
        if chosen:
            self._asked[node] = _Asked(hit.qtype, chosen, set(chosen))
        asked = self._asked[node]
        for held in vms:
            if held.vm.uuid in asked.outstanding:
                self._uses.used(held, 1, now)
        for vm in chosen:
            self._summon(vm, max_wait)
        return None

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

    def _summon(self, vm: str, timeout: float) -> None:
        if vm not in self._summoning:
            self._summoning.add(vm)
            self._actions.append(AskSummon(vm, timeout))

    # --- what happens to the VMs ---

    def summoned(self, vm: str, now: float, *, armed: bool = False) -> None:
        """Note that vmd says: the VM may be told to clients; `armed`: it still starts, Synjitsu holds its addresses."""
        self._summoning.discard(vm)
        for held in self._table.held_by(vm):
            asked = self._asked.get(held.node)
            if asked is None:
                continue
            asked.reached.add(vm)
            if armed:
                asked.early.add(vm)
            else:
                asked.early.discard(vm)
            asked.outstanding.discard(vm)
            if not asked.outstanding or not self._wants_all(held.node):
                self._release(held.node, now)

    def refused(self, vm: str, error: JitsuError, now: float) -> None:
        """Note why vmd, or nobody, made the VM reachable."""
        self._summoning.discard(vm)
        for held in self._table.held_by(vm):
            node = held.node
            asked = self._asked.get(node)
            if asked is None or vm not in asked.outstanding:
                continue
            asked.outstanding.discard(vm)
            left = self._pending.last_deadline(node) - now
            if isinstance(error, TimedOut):
                if left > 0:  # those who came later still have time
                    asked.outstanding.add(vm)
                    self._summon(vm, left)
                elif not asked.outstanding:
                    self._asked.pop(node)
                continue
            if not self._wants_all(node) and left > 0:
                asked.outstanding.update(self._choose(node, asked.qtype, asked.tried))
                asked.tried |= asked.outstanding
                for other in asked.outstanding:
                    self._summon(other, left)
            if not asked.outstanding:
                self._release(node, now, error)

    def reconfigured(self, nodes: Iterable[Node], now: float) -> None:
        """Note that VMs came to these names or left them: who waits for one that has left waits no longer."""
        for node in nodes:
            asked = self._asked.get(node)
            if asked is None:
                continue
            asked.outstanding &= {held.vm.uuid for held in node.held}
            if not asked.outstanding:
                self._release(node, now, BootFailed("it is no longer configured"))

    # --- clock ---

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return self._pending.next_deadline()

    def passed(self, now: float) -> None:
        """Look at the clock."""
        for waiting in self._pending.due(now):
            self._counts.late += 1
            held = waiting.hit.node.of_type(waiting.hit.qtype)
            anyway = [each for each in held if self._is_under_way(each) and each.vm.on_timeout is OnTimeout.ANSWER]
            vm = held[0].vm.name if held else "it"
            state = self._states.of(held[0].vm.uuid) if held else VmState.UNKNOWN
            if anyway:
                self._answer(waiting, anyway, now, early=not all(map(self._is_there, anyway)))
            elif held and self._is_under_way(held[0]):
                self._servfail(waiting, (Ede.NOT_READY, f"{vm} is still {state}"))
            else:
                self._servfail(waiting, (Ede.NETWORK_ERROR, f"{vm}: the VM daemon does not answer"))

    def _is_there(self, held: Held) -> bool:
        return self._states.of(held.vm.uuid) in _IS_THERE

    def _is_under_way(self, held: Held) -> bool:
        return self._states.is_under_way(held.vm.uuid, held.vm.host)

    # --- answers ---

    def _release(self, node: Node, now: float, error: JitsuError | None = None) -> None:
        """Answer everybody who waits for a name: with the VMs that are reachable, or with why none is."""
        asked = self._asked.pop(node)
        for waiting in self._pending.release(node):
            reached = [
                held
                for held in node.of_type(waiting.hit.qtype)
                if held.vm.uuid in asked.reached or self._states.serves(held.vm)
            ]
            if reached:
                early = any(held.vm.uuid in asked.early and not self._is_there(held) for held in reached)
                self._answer(waiting, reached, now, early=early)
            else:
                self._servfail(waiting, error_for(error or TimedOut("the VM is not ready")))

    def _answer(self, waiting: Waiting, held: Sequence[Held], now: float, *, early: bool) -> None:
        query = waiting.query
        for each in held:
            self._uses.used(each, 0, now)  # the answer's TTL runs from now on (G3)
        self._counts.waits.append(now - waiting.arrived)
        found = self._table.find(query.key, query.qtype)
        hit = found if isinstance(found, Hit) else waiting.hit  # the name may be configured otherwise by now
        self._counts.answers[query.qtype, Rcode.NOERROR, "cold"] += 1
        records = hit.records(held, max_ttl=EARLY_TTL_S if early else None)
        data = respond(query, Rcode.NOERROR, records, udp=waiting.udp, extras=waiting.extras)
        self._actions.append(Send(waiting.client, data))

    def _servfail(self, waiting: Waiting, ede: tuple[Ede, str]) -> None:
        extras = with_error(waiting.extras, *ede)
        self._counts.answers[waiting.query.qtype, Rcode.SERVFAIL, "cold"] += 1
        self._actions.append(
            Send(waiting.client, respond(waiting.query, Rcode.SERVFAIL, udp=waiting.udp, extras=extras))
        )
