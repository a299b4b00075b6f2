"""The last day of each VM in quarters of an hour: how many queries it had, and for how much of each it was up.

Quarter 95 is the one that is running, and quarter 0 began a day before its end. What is from before this process
started is not known and counts as nothing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUARTER_S = 900.0
QUARTERS = 96
_NOTHING = (0,) * QUARTERS


def _day() -> array[float]:
    return array("f", bytes(4 * QUARTERS))


def _share(up_s: float) -> float:
    """Return a share of a quarter, in few characters: two thousand VMs have 192,000 of them."""
    share = round(min(1.0, up_s / QUARTER_S), 3)
    return int(share) if share in (0.0, 1.0) else share


@dataclass
class _Day:
    quarter: int
    """The number of the running quarter, in Unix time."""
    queries: array[float] = field(default_factory=_day)
    up_s: array[float] = field(default_factory=_day)
    seen_queries: int = 0
    is_up: bool = False
    since: float = 0.0
    """Up to when `up_s` and `down_s` are counted."""
    down_s: float = 0.0


class DayHistory:
    """The last day of all VMs; times are Unix time in seconds."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}

    def up_or_down(self, uuid: str, is_up: bool, wall: float) -> None:
        """Note that a VM is up from now on, or no longer."""
        day = self._at(uuid, wall)
        day.is_up = is_up

    def counted(self, uuid: str, queries: int, wall: float, *, is_first: bool = False) -> None:
        """Note how many queries a VM has had in all; those before the first note are not of the last day."""
        day = self._at(uuid, wall)
        if not is_first and queries > day.seen_queries:
            day.queries[-1] += queries - day.seen_queries
        day.seen_queries = queries

    def series(self, uuid: str, wall: float) -> dict[str, Sequence[float]]:
        """Return queries, and the share of each quarter for which the VM was up, oldest first."""
        if uuid not in self._days:
            return {"queries": _NOTHING, "up": _NOTHING}
        day = self._at(uuid, wall)
        # Most VMs of a large suite are off all day, and a list of them all has to be quick.
        is_unused, is_down = (each.count(0.0) == QUARTERS for each in (day.queries, day.up_s))
        return {
            "queries": _NOTHING if is_unused else [round(each) for each in day.queries],
            "up": _NOTHING if is_down else [_share(each) for each in day.up_s],
        }

    def down_s(self, uuid: str, wall: float) -> float:
        """Return for how many seconds a VM was down since it has been known here."""
        return self._at(uuid, wall).down_s if uuid in self._days else 0.0

    def keep_only(self, is_wanted: Callable[[str], bool]) -> None:
        """Forget all others."""
        self._days = {uuid: day for uuid, day in self._days.items() if is_wanted(uuid)}

    def _at(self, uuid: str, wall: float) -> _Day:
        """Return a VM's day with everything counted until now."""
        now = int(wall // QUARTER_S)
        day = self._days.get(uuid)
        if day is None:
            day = self._days[uuid] = _Day(now, since=wall)
        wall = max(wall, day.since)  # the clock may have been set back
        if not day.is_up:
            day.down_s += wall - day.since
        day.since = max(day.since, wall - QUARTERS * QUARTER_S)
        while day.since < wall:
            end = min(wall, (day.quarter + 1) * QUARTER_S)
            if day.is_up:
                day.up_s[-1] += max(0.0, end - day.since)
            day.since = max(day.since, end)
            if end < wall or now > day.quarter:
                self._next(day, now)
        return day

    @staticmethod
    def _next(day: _Day, now: int) -> None:
        """Begin the next quarter, or the running one if nothing of the last day is left."""
        if now - day.quarter > QUARTERS:
            day.quarter, day.queries, day.up_s = now - 1, _day(), _day()
        for series in (day.queries, day.up_s):
            series.pop(0)
            series.append(0.0)
        day.quarter += 1
