"""The reaper as one machine: what it learns goes in, and what it asks of vmd and the store comes out.

It is put together from usage (who was used when), the policy (who is drained), the registrations and the statistics.
Here stands when it looks at all of that: within LOOK_AFTER_S of an event, however many events there are, and every
second, because silence is noticed by looking. A look (`tick`) judges who is silent first. Only then, and only as far as
nothing stands in the way (G8), does the policy decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_reaper.rules.drain import DrainAction
from jitsu_reaper.rules.events import SaveEnded, StoreReturned, UsageReported
from jitsu_reaper.rules.idle import Policy
from jitsu_reaper.rules.recorder import Recorder, WriteRecord
from jitsu_reaper.rules.registrations import Registrations
from jitsu_reaper.rules.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.messages import Report
    from jitsu_reaper.rules.events import ReaperEvent
    from jitsu_reaper.rules.registrations import Registration
    from jitsu_reaper.rules.reporters import Hearing

LOOK_AFTER_S = 0.02
"""A look asks who is silent and how each drain stands. With one for each event, hundreds of events a second left no
time to read what vmd replies, and drains failed for that."""
TICK_S = 1.0
"""The silence of a reporter or a feed is noticed within this time."""
SAVE_S = 1.0
"""Between the end of one save and the next."""


class Save:
    """Save statistics, and have the store forget who is gone; report back with SaveEnded."""


ReaperAction = DrainAction | Save | WriteRecord


class Reaper:
    """All that the reaper knows and decides."""

    def __init__(self, hearing: Hearing, drain_limit_s: float, now: float) -> None:
        self.usage = Usage(floor=now)
        self.policy = Policy(self.usage, drain_limit_s)
        self.registrations = Registrations(self.usage.reporters)
        self.recorder = Recorder(self.policy, now)
        self._hearing = hearing
        self._ticked_at = now
        self._look_at: float | None = None
        """When to look at what has changed since the last tick."""
        self._save_at: float | None = now + SAVE_S
        """None while it is being saved."""

    def remember(self, registered: Mapping[str, str], statistics: Mapping[str, str], now: float) -> None:
        """Take over what an earlier reaper left in the store."""
        self.registrations.remember(registered, now)
        self.usage.answered_before(self.usage.statistics.remember(statistics))

    def registration(self, report: Report) -> Registration | None:
        """Return what the store has to take before a report is handled; raises Refused if there are too many."""
        return self.registrations.needed(report)

    def handle(self, event: ReaperEvent, now: float) -> list[ReaperAction]:
        """Note what has happened; raises Refused for a report of one reporter too many."""
        match event:
            case SaveEnded():
                self._save_at = now + SAVE_S
                return []
            case UsageReported():
                self.usage.handle(event, now)
            case StoreReturned():
                self.usage.statistics.save_again()
            case _:
                self.policy.handle(event, now)
        self.recorder.handle(event, now)
        if self._look_at is None:
            self._look_at = now + LOOK_AFTER_S
        return []

    def deadline(self) -> float | None:
        """Return when to look again."""
        if self._look_at is not None:
            return self._look_at
        due = [self._ticked_at + TICK_S]
        if (at := self.policy.deadline()) is not None:
            due.append(at)
        if self._save_at is not None:
            due.append(self._save_at)
        return min(due)

    def tick(self, now: float) -> list[ReaperAction]:
        """Look who is silent, then decide."""
        self._ticked_at, self._look_at = now, None
        self.policy.obstacles = self.usage.reporters.obstacles(self._hearing, now)
        self.registrations.note_gone(self.usage.tick(now))
        decided = self.policy.tick(now)
        self.recorder.decided(decided, now)
        actions: list[ReaperAction] = [*decided, *self.recorder.tick(now)]
        if self._save_at is not None and now >= self._save_at:
            self._save_at = None
            actions.append(Save())
        return actions

    def notes(self, now: float) -> list[str]:
        """Return what an operator should know."""
        reporters = self.usage.reporters
        notes = [f"dns replicas: {reporters.heard('dns', now) or 'none'}"]
        if synjitsu := reporters.heard("synjitsu", now):
            notes.append(f"traffic: {synjitsu}")
        return [*notes, *self.policy.obstacles.notes(), *reporters.warnings()]
