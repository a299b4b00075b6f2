"""Limits how often an event is logged that a peer can bring about as often as it likes.

A peer with a wrong key may try again a hundred times a second. Each try is counted in a metric, but the log has one
line for each kind of event in QUIET_S seconds, so that the peer cannot fill the disk or hide other lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock

QUIET_S = 10.0


class Rarely:
    """Remembers when each kind of event was logged last."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def is_due(self, kind: str = "") -> bool:
        """Return whether an event of this kind may be logged now; if so, the next one may be in QUIET_S seconds."""
        now = self._clock.now()
        if now <= self._logged_at.get(kind, float("-inf")) + QUIET_S:
            return False
        self._logged_at[kind] = now
        return True
