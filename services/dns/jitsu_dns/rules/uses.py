"""What a replica tells the reaper: who was asked for, in batches that are kept until they are acknowledged.

A drain may be acknowledged only in a batch that is made after the drain was seen: all earlier use is then in this
batch or in one that the reaper has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Report, Use

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_dns.rules.table import Held


@dataclass
class Uses:
    """The reports of one replica."""

    replica: str
    instance: str
    lease_s: float
    registered: bool = False
    """A report was acknowledged."""
    heard_at: float = 0.0
    """When the report was sent that was acknowledged last: the lease counts from then."""
    _batch: int = 0
    _kept: dict[tuple[str, str], tuple[int, float]] | None = None
    _drains: tuple[str, ...] = ()
    _used: list[Held] = field(default_factory=list)
    """Those that are unreported: with 100,000 names nobody looks through all of them each second."""

    def used(self, held: Held, count: int, now: float) -> None:
        """Note queries for a VM's name, or (count 0) that an answer for it counts from now."""
        if not held.unreported:
            held.unreported = True
            self._used.append(held)
        held.count += count
        held.used_at = max(held.used_at, now)

    def report(self, drains: Iterable[str], now: float, *, leaving: bool = False) -> Report:
        """Return the next report; the one that was not acknowledged, if there is such."""
        if self._kept is None:
            self._batch += 1
            self._kept = {}
            self._drains = tuple(drains)
            for held in self._used:
                self._kept[held.vm.uuid, held.name] = (held.count, held.used_at)
                held.count, held.unreported = 0, False
            self._used.clear()
        uses = [
            Use(vm=vm, name=name, count=count, age_s=max(0.0, now - used_at))
            for (vm, name), (count, used_at) in self._kept.items()
        ]
        return Report(
            replica=self.replica,
            instance=self.instance,
            batch=self._batch,
            lease_s=self.lease_s,
            uses=uses,
            drains=list(self._drains),
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
