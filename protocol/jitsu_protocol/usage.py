"""When dns and synjitsu report to the reaper which VMs are in use: one machine, which both services have.

A report is due once a second. It is due at once when a VM begins to drain, because the reaper waits until every
reporter has acknowledged the drain. Only one report is under way at a time. Its content is decided elsewhere: in dns by
the counts of names, in synjitsu by the traffic that it sees. A report has a limited size. What does not fit follows in
the next one a few milliseconds later: queries that waited while one report was made should not wait for the next as
well.

    state    event           then              what happens
    waiting  Tick            waiting, sending  SendReport, if REPORT_S or PIECE_S has passed since the last one
    waiting  DrainSeen       sending           SendReport, at once
    sending  Tick            sending           nothing: one report is under way
    sending  DrainSeen       sending           it is noted, because the report under way was made before
    sending  ReportAccepted  waiting, sending  SendReport at once if a drain was seen or is not in the report;
                                               otherwise after PIECE_S if more is left, or after REPORT_S;
                                               LogRecovery if the one before was refused
    sending  ReportRefused   waiting, sending  SendReport at once if a drain was seen, otherwise after REPORT_S;
                                               LogRefusal, unless the one before was refused as well

A report that was refused is sent again as it is, and counted once (messages/reaper.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from jitsu_protocol.machine import Tick, Transition, step

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORT_S = 1.0
PIECE_S = 0.005


class ReporterState(StrEnum):
    """What a reporter is doing."""

    WAITING = "waiting"
    SENDING = "sending"


@dataclass(frozen=True)
class DrainSeen:
    """A VM has begun to drain."""


@dataclass(frozen=True)
class ReportAccepted:
    """The reaper has acknowledged the report."""

    has_more: bool = False
    """More use is known than fitted into the report."""
    lacks_drains: bool = False
    """The report was made before a drain was seen that the reporter honours by now."""


@dataclass(frozen=True)
class ReportRefused:
    """The reaper did not acknowledge the report."""

    reason: str


Event = DrainSeen | ReportAccepted | ReportRefused


@dataclass(frozen=True)
class SendReport:
    """Make a report and send it; then handle ReportAccepted or ReportRefused."""


@dataclass(frozen=True)
class LogRefusal:
    """Log that the reaper does not accept reports."""

    reason: str


@dataclass(frozen=True)
class LogRecovery:
    """Log that the reaper accepts reports again."""


Action = SendReport | LogRefusal | LogRecovery


class UsageReporter:
    """Decides when the next report is sent."""

    def __init__(self, now: float) -> None:
        """The first report is due at once."""
        self.state = ReporterState.WAITING
        self._due = now
        self._is_wanted = False
        """A drain was seen since the report that is under way was made."""
        self._is_refused = False
        """The last report was refused."""
        self._actions: list[Action] = []

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return the actions that follow from an event."""
        step(TRANSITIONS, self, event, now)
        return self._flush()

    def deadline(self) -> float | None:
        """Return when the next report is due; None while one is under way."""
        return self._due if self.state is ReporterState.WAITING else None

    def tick(self, now: float) -> Sequence[Action]:
        """Send a report if it is due."""
        step(TRANSITIONS, self, Tick(), now)
        return self._flush()

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # --- the rows of the table ---

    def _send(self, _: object = None, now: float = 0.0) -> None:
        self.state = ReporterState.SENDING
        self._is_wanted = False
        self._actions.append(SendReport())

    def _tick(self, _: object, now: float) -> None:
        if now >= self._due:
            self._send()

    def _nothing(self, _: object, now: float) -> None:
        """One report is under way."""

    def _note_drain(self, _: object, now: float) -> None:
        self._is_wanted = True

    def _accepted(self, event: ReportAccepted, now: float) -> None:
        if self._is_refused:
            self._actions.append(LogRecovery())
        self._is_refused = False
        self._go_on(now + (PIECE_S if event.has_more else REPORT_S), at_once=event.lacks_drains)

    def _refused(self, event: ReportRefused, now: float) -> None:
        if not self._is_refused:
            self._actions.append(LogRefusal(event.reason))
        self._is_refused = True
        self._go_on(now + REPORT_S)

    def _go_on(self, due: float, *, at_once: bool = False) -> None:
        self.state, self._due = ReporterState.WAITING, due
        if at_once or self._is_wanted:
            self._send()


_WAITING, _SENDING = ReporterState.WAITING, ReporterState.SENDING
_ONE, _BOTH = frozenset({_SENDING}), frozenset({_WAITING, _SENDING})
TRANSITIONS = {
    (_WAITING, Tick): Transition(UsageReporter._tick, _BOTH),
    (_WAITING, DrainSeen): Transition(UsageReporter._send, _ONE),
    (_SENDING, Tick): Transition(UsageReporter._nothing, _ONE),
    (_SENDING, DrainSeen): Transition(UsageReporter._note_drain, _ONE),
    (_SENDING, ReportAccepted): Transition(UsageReporter._accepted, _BOTH),
    (_SENDING, ReportRefused): Transition(UsageReporter._refused, _BOTH),
}
