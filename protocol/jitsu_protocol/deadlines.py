"""Deadlines of many things, of which the earliest is found without looking at the others.

A thing's true deadline may be later than the one that is kept here: whoever pops it checks, and sets it again. So an
event that only moves deadlines into the future, such as the use of a VM, costs nothing here.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")
MIN_STALE = 64
"""The heap is rebuilt when it holds more outdated entries than valid ones, but not for fewer than this."""


class Deadlines(Generic[K]):
    """Things, each with the time at which it wants to be looked at."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        """Return how many things have a deadline."""
        return len(self._at)

    def __contains__(self, key: K) -> bool:
        """Say whether a thing has a deadline."""
        return key in self._at

    def set(self, key: K, at: float) -> None:
        """Give a thing this deadline, in place of the one that it may have."""
        if self._at.get(key) == at:
            return
        self._at[key] = at
        self._count += 1
        heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 2 * len(self._at) + MIN_STALE:
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def discard(self, key: K) -> None:
        """Take a thing's deadline away; nothing if it has none."""
        self._at.pop(key, None)

    def earliest(self) -> tuple[K, float] | None:
        """Return the thing whose deadline is the earliest, and that deadline."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._at.get(key) == at:
                return key, at
            heappop(self._heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Return a thing whose deadline has come, the earliest first, and take that deadline away."""
        found = self.earliest()
        if found is None or found[1] > now:
            return None
        del self._at[found[0]]
        heappop(self._heap)
        return found[0]
