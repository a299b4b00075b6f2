"""A priority queue of deadlines: finds the earliest without looking at the others.

The true deadline of a thing may be later than the one that is stored here. The code that pops it must check, and set it
again if its time has not come. So an event that only moves a deadline into the future, such as a query for a VM, does
not have to touch the queue.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")
MIN_STALE = 64
"""The heap is rebuilt when it holds more outdated entries than valid ones, but not for fewer than this."""


class Deadlines(Generic[K]):
    """Keys, each with a time in seconds; the earliest is found in O(log n)."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        """Return how many keys have a deadline."""
        return len(self._at)

    def __contains__(self, key: K) -> bool:
        """Return whether a key has a deadline."""
        return key in self._at

    def set(self, key: K, at: float) -> None:
        """Set the deadline of a key, replacing the one that it may have."""
        if self._at.get(key) == at:
            return
        self._at[key] = at
        self._count += 1
        heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 2 * len(self._at) + MIN_STALE:
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def discard(self, key: K) -> None:
        """Remove the deadline of a key, if it has one."""
        self._at.pop(key, None)

    def earliest(self) -> tuple[K, float] | None:
        """Return the key with the earliest deadline, and that deadline; None if there is no deadline."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._at.get(key) == at:
                return key, at
            heappop(self._heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Remove and return the key with the earliest deadline if its time has come; None otherwise."""
        found = self.earliest()
        if found is None or found[1] > now:
            return None
        del self._at[found[0]]
        heappop(self._heap)
        return found[0]
