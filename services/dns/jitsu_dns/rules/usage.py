"""What a replica reports to the reaper: which VMs its clients have asked for.

This goes in batches, each of which is kept until it is acknowledged.

A drain may be acknowledged only in a batch by which all use from before the drain was seen has been reported. A batch
has an end, because to put 10,000 names into one would keep queries waiting, so that need not be the next batch: each
drain remembers how far the queue of names went when it was seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_dns.rules.lease import Lease
from jitsu_dns.rules.message import TYPE_NAMES
from jitsu_protocol.askers import SAMPLE_S, Askers, asked
from jitsu_protocol.messages import Report, Use
from jitsu_protocol.model.privacy import Privacy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_dns.rules.lookup import Held
    from jitsu_protocol.askers import Note


MAX_USES = 200
"""Names in a report. It is made and sent in less than a millisecond, during which no query is answered."""


@dataclass(frozen=True)
class Reporting:
    """The reporter."""

    replica: str
    instance: str
    """Changes at each start."""
    lease_s: float
    address: str = ""
    """HOST:PORT where it serves."""
    privacy: Privacy = Privacy.NETWORK


@dataclass(frozen=True)
class _Batch:
    """A report that may not have been acknowledged yet."""

    uses: list[tuple[str, str, int, float, int]]
    """VM, name, count, when it was used last, the longest TTL."""
    drains: tuple[str, ...]
    notes: tuple[Note, ...]


class NameUsage:
    """What one replica has counted, and its reports."""

    def __init__(self, who: Reporting) -> None:
        self._who = who
        self.lease = Lease(who.lease_s)
        self.askers = Askers(who.replica, who.instance, who.privacy)
        self._number = 0
        self._batch: _Batch | None = None
        self._queue: deque[Held] = deque()
        """The names that are unreported: with 100,000 names nobody looks through all of them each second."""
        self._queued = self._reported = 0
        self._seen_at: dict[str, int] = {}
        """Drain -> how many names had been queued when it was seen."""

    def __len__(self) -> int:
        """Return how many names wait to be reported."""
        return len(self._queue)

    def used(self, held: Held, count: int, now: float) -> None:
        """Count queries for a VM's name; with a count of 0, note only that its answer is valid from now on."""
        if not held.unreported:
            held.unreported = True
            self._queue.append(held)
            self._queued += 1
        held.count += count
        held.ttl = max(held.ttl, held.vm.names.get(held.name, 0))  # it may be lowered before this is reported
        held.used_at = max(held.used_at, now)

    def caused(self, held: Held, qtype: int, address: bytes, at: float) -> str:
        """Note the client whose query has a VM summoned; return the token of that summon."""
        return self.askers.caused(held.vm.uuid, "query", f"{held.name} {TYPE_NAMES.get(qtype, qtype)}", address, at)

    def sample(self, held: Held, qtype: int, address: bytes, at: float) -> None:
        """Note a client that was answered at once, unless one was noted for this name just before."""
        if at - held.sampled_at >= SAMPLE_S and self.askers.samples():
            held.sampled_at = at
            self.askers.noticed(held.vm.uuid, "query", f"{held.name} {TYPE_NAMES.get(qtype, qtype)}", address, at)

    def report(
        self, drains: Iterable[str], now: float, *, leaving: bool = False, warnings: Iterable[str] = ()
    ) -> Report:
        """Return the next report; if there is one that was not acknowledged, that one again."""
        if self._batch is None:
            self._batch = self._next_batch(drains)
        batch, who = self._batch, self._who
        return Report(
            replica=who.replica,
            instance=who.instance,
            address=who.address,
            batch=self._number,
            lease_s=who.lease_s,
            uses=[Use(vm, name, count, max(0.0, now - used_at)) for vm, name, count, used_at, _ in batch.uses],
            ttls=[each[-1] for each in batch.uses],
            drains=list(batch.drains),
            warnings=list(warnings),
            leaving=leaving,
            asked=asked(batch.notes, now),
        )

    def _next_batch(self, drains: Iterable[str]) -> _Batch:
        self._number += 1
        self._seen_at = {drain: self._seen_at.get(drain, self._queued) for drain in drains}
        uses = []
        for _ in range(min(len(self._queue), MAX_USES)):
            held = self._queue.popleft()
            uses.append((held.vm.uuid, held.name, held.count, held.used_at, held.ttl))
            held.count, held.ttl, held.unreported = 0, 0, False
        self._reported += len(uses)
        drains = tuple(drain for drain, seen_at in self._seen_at.items() if seen_at <= self._reported)
        return _Batch(uses, drains, tuple(self.askers.take()))

    def acknowledged(self, sent_at: float) -> None:
        """Note that the reaper has the report that was sent then."""
        self._batch = None
        self.lease.renew(sent_at)
