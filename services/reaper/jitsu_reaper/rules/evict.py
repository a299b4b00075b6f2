"""Which VMs are evicted for VMs that wait for memory or a slot on one host.

A ready VM with the key `evict` is in one of two queues. Until its `evict_timeout` is over it is `unripe`; after that it
is `ripe`. The first to be evicted is the one with the lowest priority; among equals, the one unused for longest. A
query makes a ripe VM unripe again. That is noticed only when its turn comes, so that no event looks at all VMs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from jitsu_protocol.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Iterator


class Candidates(Protocol):
    """What is known of the VMs that may be evicted."""

    def evictable_at(self, vm: str) -> float | None:
        """Return the time from which a VM may be drained for another; None if it may not be."""

    def rank(self, vm: str) -> tuple[int, float]:
        """Return a VM's priority, and when it was used last."""


@dataclass
class Evictions:
    """The VMs of one host that wait for room, and those that may be evicted."""

    candidates: Candidates
    leaving: set[str] = field(default_factory=set)
    """VMs that drain or stop already; each makes room for one waiting VM."""
    unripe: Deadlines[str] = field(default_factory=Deadlines)
    _waiting: dict[str, int] = field(default_factory=dict)
    """VMs that wait for room -> their priority."""
    _priorities: list[int] | None = None
    """Of those that wait, the highest first."""
    _ripe: list[tuple[int, float, str]] = field(default_factory=list)
    _rank: dict[str, tuple[int, float]] = field(default_factory=dict)
    """VM -> the rank that it has in `_ripe`; an entry with another one is outdated."""

    def wait(self, vm: str, priority: int) -> None:
        """Note that a VM waits for room."""
        self._waiting[vm] = priority
        self._priorities = None

    def wait_no_longer(self, vm: str) -> None:
        """Note that a VM does not wait for room."""
        if self._waiting.pop(vm, None) is not None:
            self._priorities = None

    def is_waiting(self, vm: str) -> bool:
        """Say whether a VM waits for room."""
        return vm in self._waiting

    def priorities(self) -> list[int]:
        """Return the priorities of the VMs that wait, the highest first."""
        if self._priorities is None:
            self._priorities = sorted(self._waiting.values(), reverse=True)
        return self._priorities

    def is_wanted(self, priority: int) -> bool:
        """Say whether a VM waits whose priority is at least this one."""
        return bool(self._waiting) and self.priorities()[0] >= priority

    def consider(self, vm: str) -> None:
        """Queue a VM that has become ready, or whose configuration has changed."""
        at = self.candidates.evictable_at(vm)
        if at is None:
            self.forget(vm)
        else:
            self._rank.pop(vm, None)
            self.unripe.set(vm, at)

    def forget(self, vm: str) -> None:
        """Forget a VM that is not ready."""
        self.unripe.discard(vm)
        self._rank.pop(vm, None)

    def chosen(self, now: float) -> Iterator[str]:
        """Yield the VMs to evict now: one for each waiting VM for which none leaves already."""
        for wanted in self.priorities()[len(self.leaving) :]:
            vm = self._first(now)
            if vm is None or self._rank[vm][0] > wanted:
                return
            heappop(self._ripe)
            del self._rank[vm]
            yield vm

    def deadline(self) -> float | None:
        """Return when the next unripe VM becomes ripe, if more VMs are needed than leave already."""
        if len(self.leaving) >= len(self._waiting):
            return None
        while (found := self.unripe.earliest()) is not None:
            vm, at = found
            actual = self.candidates.evictable_at(vm)
            if actual is None:
                self.unripe.discard(vm)
            elif actual > at:
                self.unripe.set(vm, actual)
            else:
                return at
        return None

    def _first(self, now: float) -> str | None:
        """Return the ripe VM to evict first, and leave it in the queue."""
        while (vm := self.unripe.pop_due(now)) is not None:
            self._ripen(vm, now)
        while self._ripe:
            priority, used_at, vm = self._ripe[0]
            if self._rank.get(vm) == (priority, used_at):
                at = self.candidates.evictable_at(vm)
                if at is not None and at <= now and self.candidates.rank(vm) == (priority, used_at):
                    return vm
                del self._rank[vm]
                heappop(self._ripe)
                self._ripen(vm, now)
            else:
                heappop(self._ripe)
        return None

    def _ripen(self, vm: str, now: float) -> None:
        at = self.candidates.evictable_at(vm)
        if at is None:
            return
        if at > now:
            self.unripe.set(vm, at)
            return
        self._rank[vm] = rank = self.candidates.rank(vm)
        heappush(self._ripe, (*rank, vm))
