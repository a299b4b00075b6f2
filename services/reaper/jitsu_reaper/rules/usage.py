"""When each VM was used last, from what the dns replicas and Synjitsu report.

A VM's last use is the latest of what was reported of it, what vmd says of its summons, and until when anything may have
gone unreported (reporters.py). No answer for it may still be within its TTL either, and that is the TTL which the
answer had when it was given (lifetimes.py).

What is reported of a VM that is not configured is kept for a while, as the reaper may hear of the VM later than dns
does. Such a VM counts as used when it is configured, because what was reported before may be forgotten by then. Names,
hosts and drains that a replica has made up are bounded (G9).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.lifetimes import AnswerLifetimes
from jitsu_reaper.rules.reporters import SILENT_S, Reporter, Reporters
from jitsu_reaper.rules.statistics import UsageStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_reaper.rules.events import UsageReported

UNKNOWN_S = 60.0
"""What is reported of a VM that is not configured is forgotten this long after the last report of it."""
MAX_UNKNOWN = 20_000
"""VMs that are not configured and of which something is kept; more displace those that were reported longest ago."""


@dataclass(frozen=True)
class ReporterGone:
    """Remove a reporter from the store, because its lease has run out and it will not say goodbye."""

    name: str
    reporter: Reporter


@dataclass
class Usage:
    """What is known of use. It is a machine: reports in, and who is gone out."""

    floor: float
    """When the reaper started: no VM counts as unused before that."""
    reporters: Reporters = field(init=False)
    statistics: UsageStatistics = field(default_factory=UsageStatistics)
    _used: dict[str, float] = field(default_factory=dict)
    _answers: dict[str, AnswerLifetimes] = field(default_factory=dict)
    _configured: set[str] = field(default_factory=set)
    _unknown: dict[str, float] = field(default_factory=dict)
    """VMs that are not configured -> when they were reported last; in that order."""
    _ticked_at: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin now."""
        self.reporters = Reporters(self.floor)
        self._ticked_at = self.floor

    def handle(self, event: UsageReported, now: float) -> list[ReporterGone]:
        """Note a report; raises Refused if there are too many reporters."""
        report = event.report
        if not self.reporters.report(report, now):
            return []
        for n, use in enumerate(report.uses):
            self.used(use.vm, now - use.age_s)
            if use.vm not in self._configured:
                self._is_unknown(use.vm, now)
            if use.name:
                ttl = report.ttls[n] if n < len(report.ttls) else None
                self._lifetimes(use.vm).answered(now - use.age_s, ttl, now)
                self.statistics.answered(use, ttl, event.wall)
        return []

    def deadline(self) -> float | None:
        """Return when somebody may have become silent or gone."""
        return min((each.heard_at + SILENT_S for each in self.reporters.known.values()), default=None)

    def tick(self, now: float) -> list[ReporterGone]:
        """Judge who is silent, every second at least; return who is gone."""
        self._ticked_at = now
        self._forget_unknown(now)
        return [ReporterGone(name, reporter) for name, reporter in self.reporters.tick(now).items()]

    def used(self, vm: str, at: float) -> None:
        """Note that a VM was in use at that time."""
        self._used[vm] = max(self._used.get(vm, at), at)

    def configured(self, vm: str, ttl: int, names: Iterable[str], now: float) -> None:
        """Note a VM's names and the longest of their TTLs, as configured now."""
        if vm not in self._configured:
            self._unknown.pop(vm, None)
            self.used(vm, now)
        self._configured.add(vm)
        self.statistics.configured(vm, frozenset(names))
        self._lifetimes(vm).configured(ttl, now)

    def answered_before(self, ttls: Mapping[tuple[str, str], int]) -> None:
        """Note the TTLs of the answers that were reported to an earlier reaper."""
        for (vm, _), ttl in ttls.items():
            self._lifetimes(vm).answered(self.floor, ttl, self._ticked_at)

    def last_use(self, vm: str, host: str) -> float:
        """Return the latest time at which a VM may have been used, given who was silent at the last tick."""
        floor = self.reporters.used_until(host)
        return max(floor, self._used.get(vm, floor))

    def used_at(self, vm: str) -> float | None:
        """Return when a use of a VM was reported last; None if that never was."""
        return self._used.get(vm)

    def answers_until(self, vm: str) -> float:
        """Return until when an answer that was reported is within its TTL."""
        return self._lifetimes(vm).until

    def valid_until(self, vm: str, host: str) -> float:
        """Return the latest time at which an answer may still be within its TTL, given who was silent."""
        lifetimes = self._lifetimes(vm)
        return max(lifetimes.until, self.reporters.used_until(host) + lifetimes.longest(self._ticked_at))

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self._configured.discard(vm)
        self._unknown.pop(vm, None)
        self._used.pop(vm, None)
        self._answers.pop(vm, None)
        self.statistics.forget(vm)

    def remembered(self) -> set[str]:
        """Return the VMs of which anything is kept."""
        return {*self._used, *self._answers, *self._unknown, *(vm for vm, _ in self.statistics.totals)}

    def _lifetimes(self, vm: str) -> AnswerLifetimes:
        found = self._answers.get(vm)
        if found is None:
            found = self._answers[vm] = AnswerLifetimes()
        return found

    def _is_unknown(self, vm: str, now: float) -> None:
        self._unknown.pop(vm, None)
        self._unknown[vm] = now
        if len(self._unknown) > MAX_UNKNOWN:
            self.forget(next(iter(self._unknown)))

    def _forget_unknown(self, now: float) -> None:
        while self._unknown and now - self._unknown[oldest := next(iter(self._unknown))] >= UNKNOWN_S:
            self.forget(oldest)
