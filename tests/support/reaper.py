"""A reaper's policy in tests that jump from one moment to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_reaper.rules.idle import Policy

if TYPE_CHECKING:
    from jitsu_reaper.rules.drain import Action


class SteadyPolicy(Policy):
    """One that has looked at the clock every second until it is asked, as the reaper does that is not held up."""

    _looked_at = 0.0

    def passed(self, now: float) -> list[Action]:
        while self._looked_at + 1.0 < now:
            self._looked_at += 1.0
            self.gone |= self.activity.passed(self._looked_at)
        self._looked_at = now
        return super().passed(now)
