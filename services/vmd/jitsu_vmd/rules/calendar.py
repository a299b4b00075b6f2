"""What a VM's schedule says at a moment: awake, asleep, or neither.

The local clock decides. A daily window is open whenever the clock of `time_zone` reads a time inside it. A time that
the clock skips in spring is therefore in no window, and one that it reads twice in autumn is in the window twice. A
window belongs to the day on which it begins, and on a public holiday (`holidays`) that day is Hol and no other. A cron
window is open for its duration after each time at which cron would run its expression; cron knows nothing of holidays.

Where `awake` and `asleep` are both open, the VM is asleep.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.schedules import DAYS, CronWindow, DailyWindow, window

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from datetime import tzinfo

    from jitsu_protocol.model.schedules import Window
    from jitsu_protocol.model.vm import VM

LOOK_AHEAD_DAYS = 400
"""A window that only holidays open is open again within a year."""
MAX_MOMENTS = 1000
"""Examine at most this many moments at once. If nothing changes at any of them, go on from the last one later."""


_MISSING = "the calendars are not installed here; `pip install 'jitsu-vmd[schedule]'` adds them"


class Phase(StrEnum):
    """What a schedule says at a moment."""

    FREE = "free"
    AWAKE = "awake"
    ASLEEP = "asleep"


@dataclass(frozen=True)
class Calendar:
    """The clock and the holidays of a place."""

    zone: tzinfo
    holidays: Container[date] = ()

    def day(self, of: date) -> str:
        """Return which of DAYS a date is."""
        return "Hol" if of in self.holidays else DAYS[of.weekday()]

    def instants(self, naive: datetime) -> set[datetime]:
        """Return the instants that a reading of the local clock stands for: two, if it reads that twice."""
        return {naive.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)}

    def jump(self, start: datetime, end: datetime) -> datetime | None:
        """Return when the local clock jumps between two instants, to the second; None if it does not."""
        before, after = self._offset(start), self._offset(end)
        if before == after:
            return None
        low, high = start, end
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) // 2
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        return high.replace(microsecond=0)

    def _offset(self, at: datetime) -> timedelta | None:
        return at.astimezone(self.zone).utcoffset()


@dataclass(frozen=True)
class Schedule:
    """The schedule of one VM."""

    calendar: Calendar
    awake: Sequence[Window] = ()
    asleep: Sequence[Window] = ()

    def phase(self, at: datetime) -> Phase:
        """Return what it says at an instant."""
        if any(self._is_open(each, at) for each in self.asleep):
            return Phase.ASLEEP
        return Phase.AWAKE if any(self._is_open(each, at) for each in self.awake) else Phase.FREE

    def changes_after(self, at: datetime) -> tuple[datetime, Phase]:
        """Return when it next says something else, and what.

        If that is not found within bounds, the instant is one until which nothing changes, and the phase is the same.
        """
        phase = self.phase(at)
        last = at + timedelta(days=LOOK_AHEAD_DAYS)
        for last in islice(self._moments(at), MAX_MOMENTS):
            if (then := self.phase(last)) is not phase:
                return last, then
        return last, phase

    @cached_property
    def _all(self) -> tuple[Window, ...]:
        return (*self.awake, *self.asleep)

    def _is_open(self, each: Window, at: datetime) -> bool:
        local = at.astimezone(self.calendar.zone).replace(tzinfo=None)
        if isinstance(each, CronWindow):
            began = _fired(each.expression, at.astimezone(self.calendar.zone))
            return began is not None and at < began + timedelta(seconds=each.duration_s)
        midnight = datetime.combine(local.date(), time())
        for days_ago in (0, 1):
            day = midnight - timedelta(days=days_ago)
            read_s = (local - day).total_seconds()
            if each.start_s <= read_s < each.end_s and self.calendar.day(day.date()) in each.days:
                return True
        return False

    def _moments(self, after: datetime) -> Iterator[datetime]:
        """Yield, in order, the instants after one at which a window may open or close."""
        start = after
        for _ in range(LOOK_AHEAD_DAYS):
            end = start + timedelta(days=1)
            found = {jump} if (jump := self.calendar.jump(start, end)) else set()
            for each in self._all:
                found |= self._of_cron(each, start, end) if isinstance(each, CronWindow) else self._daily(each, start)
            yield from sorted(moment for moment in found if start < moment <= end)
            start = end

    def _daily(self, each: DailyWindow, start: datetime) -> set[datetime]:
        """Return when a daily window may open or close within a day of an instant, and some instants around that."""
        today = datetime.combine(start.astimezone(self.calendar.zone).date(), time())
        return {
            instant
            for days in (-2, -1, 0, 1, 2)
            for second in (each.start_s, each.end_s)
            for instant in self.calendar.instants(today + timedelta(days=days, seconds=second))
        }

    def _of_cron(self, each: CronWindow, start: datetime, end: datetime) -> set[datetime]:
        duration = timedelta(seconds=each.duration_s)
        found: set[datetime] = set()
        for fired in islice(_fires(each.expression, (start - duration).astimezone(self.calendar.zone)), MAX_MOMENTS):
            if fired > end:
                break
            found |= {fired, fired + duration}
        return found


def schedule(vm: VM, local: Callable[[], tzinfo]) -> Schedule | None:
    """Return the schedule of a VM, None if it has none; `local` returns the zone of its host.

    Raises ValueError with the reason if the calendar does not know its zone, its place or its cron expression.
    """
    awake, asleep = ([window(text) for text in vm.config.get(key, ())] for key in ("awake", "asleep"))
    if not awake and not asleep:
        return None
    for each in (*awake, *asleep):
        if isinstance(each, CronWindow):
            _check(each.expression)
    (zone,), (place,) = (vm.config.get(key) or ("",) for key in ("time_zone", "holidays"))
    return Schedule(Calendar(_zone(zone) if zone else local(), _holidays(place) if place else ()), awake, asleep)


def check(vm: VM) -> None:
    """Raise Refused if a VM has a schedule that no calendar knows, or keys of one without a schedule."""
    try:
        found = schedule(vm, lambda: UTC)
    except ValueError as error:
        raise Refused(str(error)) from None
    for key in ("time_zone", "holidays"):
        if found is None and vm.config.get(key):
            raise Refused(f"{key}: it is for awake and asleep, and the VM has neither; remove it")


# --- the libraries: imported for VMs that need them ---


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"time_zone: no time zone is called {name!r}; expected something like Europe/Berlin") from None


def _holidays(place: str) -> Container[date]:
    try:
        import holidays
    except ImportError:
        raise ValueError(f"holidays: {_MISSING}") from None
    country, _, part = place.partition("-")
    try:
        return holidays.country_holidays(country, subdiv=part or None)
    except NotImplementedError:
        raise ValueError(f"holidays: the public holidays of {place} are not known") from None


def _check(expression: str) -> None:
    try:
        from cronsim import CronSimError
    except ImportError:
        raise ValueError(f"{expression!r}: {_MISSING}") from None
    try:
        found = next(_fires(expression, datetime(2000, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is not a cron expression: {error}") from None
    if found is None:
        raise ValueError(f"{expression!r} is never due")


def _fires(expression: str, after: datetime) -> Iterator[datetime]:
    """Yield when cron runs an expression after a local time, as instants."""
    from cronsim import CronSim

    return (each.astimezone(UTC) for each in CronSim(expression, after))


def _fired(expression: str, local: datetime) -> datetime | None:
    """Return when cron ran an expression last, at a local time or before."""
    from cronsim import CronSim

    just_after = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
    found = next(CronSim(expression, just_after, reverse=True), None)
    return None if found is None else found.astimezone(UTC)
