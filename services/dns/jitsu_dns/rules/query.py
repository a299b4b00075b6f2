"""Which answer a query gets, and when: the machine of a dns replica.

Driven by queries, by what store, vmd and reaper say, and by the clock. `query` returns the answer if there is one
at once, which is the warm path; all else comes out of `take` as actions.

    warm      VM ready and this replica registered with the reaper within its lease: answered from the table
    cold      else: the query waits, one Summon per VM is under way, whoever asks meanwhile joins it
              Summoned           everybody who waits is answered
              a reason not to    SERVFAIL with the reason (RFC 8914)
              max_wait over      answered anyway if vmd says that it starts or boots, unless on_timeout = servfail
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_dns.rules.message import IN, Ede, Malformed, Rcode, parse, respond
from jitsu_dns.rules.pending import Pending, Waiting
from jitsu_dns.rules.table import Hit, Table
from jitsu_protocol.errors import BackingOff, BootFailed, JitsuError, TimedOut
from jitsu_protocol.states import VmState
from jitsu_protocol.vm import OnTimeout

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from jitsu_dns.rules.message import Query
    from jitsu_dns.rules.uses import Uses
    from jitsu_protocol.inventory import VmChanged
    from jitsu_protocol.messages import VmStatus

UNDER_WAY = frozenset({VmState.STARTING, VmState.BOOTING, VmState.READY, VmState.DRAINING})


@dataclass(frozen=True)
class Send:
    """Send a response to a client."""

    client: Hashable
    data: bytes


@dataclass(frozen=True)
class AskSummon:
    """Ask vmd to make a VM reachable; answer with `summoned` or `refused`."""

    vm: str
    timeout: float
    """Seconds."""


@dataclass(frozen=True)
class ReportNow:
    """Tell the reaper at once: a VM drains."""


Action = Send | AskSummon | ReportNow


@dataclass
class Counts:
    """What happened since the start, for the metrics."""

    warm: int = 0
    cold: int = 0
    fixed: int = 0
    outside: int = 0
    malformed: int = 0
    failed: int = 0
    late: int = 0
    overflow: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds that cold queries waited, since the shell last took them."""


class Front:
    """One replica."""

    def __init__(self, table: Table, uses: Uses, max_waiting: int) -> None:
        self.table = table
        self.uses = uses
        self.counts = Counts()
        self.pending = Pending(max_waiting)
        self._states: dict[str, tuple[VmState, str]] = {}  # vm -> (state, drain)
        self._summoning: set[str] = set()
        self._actions: list[Action] = []

    # --- queries ---

    def query(self, data: bytes, client: Hashable, udp: bool, now: float) -> bytes | None:
        """Take a packet; return what is sent back at once, None if that is nothing or comes later."""
        query = parse(data)
        if isinstance(query, Malformed):
            self.counts.malformed += 1
            return query.reply
        if query.edns is not None and query.edns.version != 0:
            return respond(query, Rcode.BADVERS, authoritative=False, udp=udp)
        found = self.table.find(query.key, query.qtype) if query.qclass == IN else None
        if isinstance(found, Hit):
            found.name.count += 1
            found.name.used(now)
            if self.is_warm(found.name.vm.uuid, now):
                self.counts.warm += 1
                return respond(query, Rcode.NOERROR, found.records, udp=udp)
            return self._wait(query, client, udp, found, now)
        if found is None:
            self.counts.outside += 1
            return respond(query, Rcode.REFUSED, authoritative=False, udp=udp)
        self.counts.fixed += 1
        return respond(query, found.rcode, found.records, udp=udp)

    def is_warm(self, vm: str, now: float) -> bool:
        """Say whether a query for this VM is answered without asking vmd."""
        return self._state(vm) is VmState.READY and self.uses.may_answer_warm(now)

    def take(self) -> list[Action]:
        """Return what is to be done, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    def gone(self, client: Hashable) -> None:
        """Note that a client can be sent nothing more."""
        self.pending.drop_client(client)

    # --- vmd ---

    def summoned(self, vm: str, now: float) -> None:
        """Note that vmd says: the VM may be told to clients."""
        self._summoning.discard(vm)
        for waiting in self.pending.release(vm):
            self._answer(waiting, now)

    def refused(self, vm: str, error: JitsuError, now: float) -> None:
        """Note why vmd, or nobody, made the VM reachable."""
        self._summoning.discard(vm)
        if isinstance(error, TimedOut):
            # Those who came later still have time left.
            self._summon_for_rest(vm, now)
            return
        for waiting in self.pending.release(vm):
            self._servfail(waiting, _ede_for(error))

    def all_states(self, statuses: Iterable[VmStatus], now: float) -> None:
        """Take a snapshot of all VMs' states."""
        self._states = {}
        for status in statuses:
            self.state(status, now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        """Take a VM's new state."""
        if gone:
            self._states.pop(status.uuid, None)
            return
        self._states[status.uuid] = (status.state, status.drain)
        if status.state is VmState.DRAINING:
            self._actions.append(ReportNow())
        elif status.state is VmState.READY and self.pending.waits_for(status.uuid):
            self.summoned(status.uuid, now)

    def drains(self) -> list[str]:
        """Return the drains that this replica honours."""
        return [drain for _, drain in self._states.values() if drain]

    # --- store ---

    def configure(self, changes: Sequence[VmChanged], serial: int) -> None:
        """Take VMs that came, went or are configured otherwise."""
        for change in changes:
            self.table.replace(change.old, change.new)
            if change.new is None and change.old is not None:
                for waiting in self.pending.release(change.old.uuid):
                    self._servfail(waiting, (Ede.OTHER, f"{change.old.name} is configured no more"))
        if changes:
            self.table.publish(serial)

    # --- clock ---

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return self.pending.next_deadline()

    def passed(self, now: float) -> None:
        """Look at the clock."""
        for waiting in self.pending.due(now):
            vm = waiting.hit.name.vm
            state = self._state(vm.uuid)
            self.counts.late += 1
            if state in UNDER_WAY and vm.on_timeout is OnTimeout.ANSWER:
                self._answer(waiting, now)
            elif state in UNDER_WAY:
                self._servfail(waiting, (Ede.NOT_READY, f"{vm.name} is still {state}"))
            else:
                self._servfail(waiting, (Ede.NETWORK_ERROR, f"{vm.name}: the VM daemon does not answer"))

    # --- common ---

    def _state(self, vm: str) -> VmState:
        known = self._states.get(vm)
        return VmState.UNKNOWN if known is None else known[0]

    def _wait(self, query: Query, client: Hashable, udp: bool, hit: Hit, now: float) -> bytes | None:
        vm = hit.name.vm
        self.counts.cold += 1
        if not self.pending.add(Waiting(query, client, udp, hit, now, now + vm.max_wait)):
            self.counts.overflow += 1
            return respond(query, Rcode.SERVFAIL, udp=udp, ede=(Ede.OTHER, "too many queries wait"))
        self._summon(vm.uuid, vm.max_wait)
        return None

    def _summon(self, vm: str, timeout: float) -> None:
        if vm not in self._summoning:
            self._summoning.add(vm)
            self._actions.append(AskSummon(vm, timeout))

    def _summon_for_rest(self, vm: str, now: float) -> None:
        last = self.pending.last_deadline(vm)
        if last > now:
            self._summon(vm, last - now)

    def _answer(self, waiting: Waiting, now: float) -> None:
        found = self.table.find(waiting.query.key, waiting.query.qtype)
        hit = found if isinstance(found, Hit) else waiting.hit  # the VM may be configured otherwise by now
        hit.name.used(now)  # the answer's TTL runs from now on (G3)
        self.counts.waits.append(now - waiting.arrived)
        data = respond(waiting.query, Rcode.NOERROR, hit.records, udp=waiting.udp)
        self._actions.append(Send(waiting.client, data))

    def _servfail(self, waiting: Waiting, ede: tuple[Ede, str]) -> None:
        self.counts.failed += 1
        data = respond(waiting.query, Rcode.SERVFAIL, udp=waiting.udp, ede=ede)
        self._actions.append(Send(waiting.client, data))


def _ede_for(error: JitsuError) -> tuple[Ede, str]:
    """Return the extended error for a reason: the one place where codes become RFC 8914's."""
    if isinstance(error, BackingOff):
        wait = f"; next try in {error.retry_after:.1f} s" if error.retry_after else ""
        return Ede.CACHED_ERROR, f"{error.message}{wait}"
    if isinstance(error, BootFailed):
        return Ede.OTHER, f"boot failed: {error.message}"
    return Ede.NOT_READY, error.message
