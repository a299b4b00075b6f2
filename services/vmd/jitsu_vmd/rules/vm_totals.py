"""What each VM has done since vmd started, for its metrics: boots, time that it was up, and memory that it did not use.

There is a row for each VM while there are at most as many VMs as the limit says. With more VMs there are no rows,
because each becomes some 25 lines of every scrape. A VM saves its memory while it has no guest that holds it, which
is when it is off, suspended or failed. The scrape comes on another thread, so what belongs together is replaced as one
value.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from jitsu_vmd.rules.tally import RUNNING, SAVES_MEMORY

if TYPE_CHECKING:
    from jitsu_protocol.model.states import VmState


class Period(NamedTuple):
    """The state that a VM has been in for a while, and what had added up before."""

    state: VmState
    since: float
    memory_bytes: int
    up_s: float = 0.0
    saved_byte_s: float = 0.0

    def totals(self, now: float) -> tuple[float, float]:
        """Return the seconds that the VM was up, and the memory that it saved, in byte seconds."""
        passed_s = max(0.0, now - self.since)
        up_s = self.up_s + passed_s * (self.state in RUNNING)
        return up_s, self.saved_byte_s + passed_s * self.memory_bytes * (self.state in SAVES_MEMORY)


class Exemplar(NamedTuple):
    """A boot that stands for the others of its bucket."""

    summon: str
    seconds: float
    wall: float
    """Unix time."""


@dataclass
class VmRow:
    """What one VM has done."""

    period: Period
    boots: dict[tuple[str, str], int] = field(default_factory=dict)
    """By trigger and outcome."""
    buckets: dict[int, tuple[int, Exemplar]] = field(default_factory=dict)
    """By the number of the bucket: how many boots took that long, and the latest of them. Most VMs need only two."""
    boot_s: float = 0.0
    """Of all boots that made the VM ready."""


@dataclass
class VmTotals:
    """All VMs of one vmd."""

    bounds_s: tuple[float, ...]
    """The upper bounds of all buckets but the last."""
    limit: int
    """The largest number of VMs for which there are rows; 0 if nobody reads them."""
    rows: dict[str, VmRow] = field(default_factory=dict)

    def moved(self, vm: str, state: VmState, memory_bytes: int, now: float, *, of: int) -> None:
        """Note a VM's state and memory; it is one of that many VMs."""
        if of > self.limit:
            self.rows.clear()
            return
        row = self.rows.get(vm)
        if row is None:
            self.rows[vm] = VmRow(Period(state, now, memory_bytes))
        elif (row.period.state, row.period.memory_bytes) != (state, memory_bytes):
            row.period = Period(state, now, memory_bytes, *row.period.totals(now))

    def booted(self, vm: str, trigger: str, exemplar: Exemplar, *, is_ready: bool) -> None:
        """Note that a boot has ended; `exemplar` has its id and how long it took."""
        row = self.rows.get(vm)
        if row is None:
            return
        key = trigger, "ready" if is_ready else "failed"
        row.boots[key] = row.boots.get(key, 0) + 1
        if is_ready:
            bucket = bisect_left(self.bounds_s, exemplar.seconds)
            row.buckets[bucket] = row.buckets.get(bucket, (0, exemplar))[0] + 1, exemplar
            row.boot_s += exemplar.seconds

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self.rows.pop(vm, None)
