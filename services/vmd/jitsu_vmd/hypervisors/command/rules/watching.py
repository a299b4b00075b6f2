"""When a `watch` command that has ended is started again: later and later while it keeps ending soon."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S, LONGEST_S = 0.5, 60.0
HEALTHY_S = 30.0
"""One that has run for that long was well: the next one waits as little as the first."""


@dataclass
class WatchBackoff:
    """How often it has failed in a row."""

    failures: int = 0

    def ended(self, ran_s: float) -> float:
        """Return after how many seconds to start it again."""
        self.failures = 0 if ran_s >= HEALTHY_S else self.failures + 1
        return min(FIRST_S * 2.0 ** min(max(0, self.failures - 1), 10), LONGEST_S)
