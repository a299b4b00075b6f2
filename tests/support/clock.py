"""A clock that a test moves by hand."""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Stands still until it is moved; timers ring on the way."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = count()
        self.says: float | None = None
        """What the wall clock says, if a test sets it."""

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now if self.says is None else self.says

    def call_in(self, seconds: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._now + max(0.0, seconds), next(self._count), timer))
        return timer

    def deadline(self) -> float:
        """Return when the next timer rings; infinity if none is set."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")

    def advance(self, seconds: float) -> None:
        """Let time pass, and call back whatever is due, each at its own time."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self._now = until

    def suspend(self, seconds: float) -> None:
        """Let time pass in which this process does not run: what was due is called back late."""
        self._now += seconds
        late = [entry for entry in self._timers if entry[0] <= self._now]
        self._timers = [entry for entry in self._timers if entry[0] > self._now]
        heapq.heapify(self._timers)
        for _, _, timer in sorted(late):
            if timer.callback is not None:
                timer.callback()
