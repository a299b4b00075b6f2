"""A reaper's policy in tests that jump from one moment to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_reaper.rules.drain import DrainBegun, DrainEnded
from jitsu_reaper.rules.events import StateChanged, StatesListed, UsageReported, VmsConfigured
from jitsu_reaper.rules.idle import Policy
from jitsu_reaper.rules.reporters import Obstacles
from jitsu_reaper.rules.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import Report, VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_reaper.rules.drain import DrainAction


class HearingPolicy(Policy):
    """A policy that hears everybody. It has short methods for events, and looks at the clock only when asked."""

    def __init__(self, usage: Usage | None = None, drain_limit_s: float = 3.0) -> None:
        super().__init__(Usage(floor=0.0) if usage is None else usage, drain_limit_s)
        self.obstacles = Obstacles()
        self.now = self.usage.floor
        self.gone: list[str] = []

    def configure(self, changes: Sequence[VmChanged]) -> None:
        self.handle(VmsConfigured(changes), self.now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        self.handle(StateChanged(status, gone), now)

    def all_states(self, statuses: Sequence[VmStatus], now: float, host: str = "") -> None:
        self.handle(StatesListed(statuses, host), now)

    def report(self, report: Report, now: float, wall: float) -> None:
        self.usage.handle(UsageReported(report, wall), now)

    def begun(self, vm: str, drain: str, now: float) -> None:
        self.handle(DrainBegun(vm, drain), now)

    def ended(self, vm: str, now: float) -> None:
        self.handle(DrainEnded(vm), now)

    def tick(self, now: float) -> list[DrainAction]:
        """Judge silence, then decide, as the reaper does."""
        self.now = now
        self.gone += [each.name for each in self.usage.tick(now)]
        return super().tick(now)


class SteadyPolicy(HearingPolicy):
    """A policy that has looked at the clock every second until it is asked, as a reaper does that is not suspended."""

    def tick(self, now: float) -> list[DrainAction]:
        while self.now + 1.0 < now:
            self.now += 1.0
            self.gone += [each.name for each in self.usage.tick(self.now)]
        return super().tick(now)
