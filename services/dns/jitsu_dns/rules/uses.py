"""What a replica tells the reaper: who was asked for, in batches that are kept until they are acknowledged.

A drain may be acknowledged only in a batch with which all use from before the drain was seen has been told. As a
batch has an end (to put 10,000 names in one would keep queries waiting), that need not be the next one: each drain
remembers how far the queue of names went when it was seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Report, Use

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_dns.rules.table import Held


MAX_USES = 200
"""Names in a report: it is made and sent in less than a millisecond, in which no query is answered."""


@dataclass
class Uses:
    """The reports of one replica."""

    replica: str
    instance: str
    lease_s: float
    address: str = ""
    """Where it serves."""
    registered: bool = False
    """A report was acknowledged."""
    heard_at: float = 0.0
    """When the report was sent that was acknowledged last: the lease counts from then."""
    _batch: int = 0
    _kept: list[tuple[str, str, int, float, int]] | None = None
    """What the batch that is not acknowledged yet says: VM, name, count, when it was used last, the longest TTL."""
    _drains: tuple[str, ...] = ()
    _queue: deque[Held] = field(default_factory=deque)
    """Those that are unreported: with 100,000 names nobody looks through all of them each second."""
    _queued: int = 0
    _taken: int = 0
    _seen_at: dict[str, int] = field(default_factory=dict)
    """Drain -> how many names had been queued when it was seen."""

    def __len__(self) -> int:
        """Return how many names wait to be reported."""
        return len(self._queue)

    def used(self, held: Held, count: int, now: float) -> None:
        """Note queries for a VM's name, or (count 0) that an answer for it counts from now."""
        if not held.unreported:
            held.unreported = True
            self._queue.append(held)
            self._queued += 1
        held.count += count
        held.ttl = max(held.ttl, held.vm.names.get(held.name, 0))  # it may be lowered before this is reported
        held.used_at = max(held.used_at, now)

    def report(
        self, drains: Iterable[str], now: float, *, leaving: bool = False, warnings: Iterable[str] = ()
    ) -> Report:
        """Return the next report; the one that was not acknowledged, if there is such."""
        if self._kept is None:
            self._batch += 1
            self._seen_at = {drain: self._seen_at.get(drain, self._queued) for drain in drains}
            self._kept = []
            for _ in range(min(len(self._queue), MAX_USES)):
                held = self._queue.popleft()
                self._kept.append((held.vm.uuid, held.name, held.count, held.used_at, held.ttl))
                held.count, held.ttl, held.unreported = 0, 0, False
            self._taken += len(self._kept)
            self._drains = tuple(drain for drain, seen_at in self._seen_at.items() if seen_at <= self._taken)
        return Report(
            replica=self.replica,
            instance=self.instance,
            address=self.address,
            batch=self._batch,
            lease_s=self.lease_s,
            uses=[Use(vm, name, count, max(0.0, now - used_at)) for vm, name, count, used_at, _ in self._kept],
            ttls=[each[-1] for each in self._kept],
            drains=list(self._drains),
            warnings=list(warnings),
            leaving=leaving,
        )

    def acknowledged(self, sent_at: float) -> None:
        """Note that the reaper has the report that was sent then."""
        self._kept = None
        self.registered = True
        self.heard_at = max(self.heard_at, sent_at)

    def may_answer_warm(self, now: float) -> bool:
        """Say whether the reaper still counts on this replica, so that no VM can be stopped unseen."""
        return self.registered and now < self.heard_at + self.lease_s
