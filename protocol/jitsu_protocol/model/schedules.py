"""When a VM is to be awake or asleep: the forms of `awake`, `asleep`, `time_zone` and `holidays`.

    08:00-18:00                each day, holidays too
    Mon-Fri 08:00-18:00        on the days that are named
    Sat,Sun,Hol 22:00-02:00    Hol is a public holiday, and until two o'clock in the next morning
    0 8 * * 1-5 for 10h        from each time of a cron expression (crontab(5)) on, for that long

Only the form is decided here, because every service checks it. What a calendar says about it is for vmd to decide
(vmd's rules/calendar.py), which alone needs the rules of time zones and holidays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jitsu_protocol.model.units import plain

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Hol")
"""Days on which a window may begin. A public holiday is a Hol and no other day."""
DAY_S = 86_400
MAX_CRON_S = 7 * DAY_S
MAX_CHARACTERS = 200

_WINDOW = re.compile(r"(?:([A-Za-z,-]+) +)?([0-9]{2}):([0-9]{2}) *- *([0-9]{2}):([0-9]{2})")
_CRON = re.compile(r"((?:[0-9A-Za-z*/,#-]+ +){4}[0-9A-Za-z*/,#-]+) +for +([0-9.]+ ?[a-z]*)")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}")
_PLACE = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")


@dataclass(frozen=True)
class DailyWindow:
    """A time of day, on some days."""

    days: frozenset[str]
    """Of DAYS: those on which it begins."""
    start_s: int
    """In seconds of the local clock, from midnight on."""
    end_s: int
    """The same; beyond 24 hours if it ends on the next day."""


@dataclass(frozen=True)
class CronWindow:
    """A stretch of time that begins whenever a cron expression says so."""

    expression: str
    duration_s: float


Window = DailyWindow | CronWindow


def window(text: str) -> Window:
    """Return the window that a text stands for; raises ValueError with what to write instead."""
    words = " ".join(text.split())
    shown = repr(text[:80])
    if len(words) > MAX_CHARACTERS:
        raise ValueError(f"the text is {len(words)} characters long, {MAX_CHARACTERS} are allowed")
    if daily := _WINDOW.fullmatch(words):
        days, *clock = daily.groups()
        return DailyWindow(_days(days), *_times(shown, *map(int, clock)))
    if cron := _CRON.fullmatch(words):
        return CronWindow(cron[1], _duration_s(shown, cron[2]))
    raise ValueError(
        f"{shown} is not a time of day; expected something like 'Mon-Fri 08:00-18:00' or '0 8 * * 1-5 for 10h'"
    )


def window_text(text: str) -> str:
    """Check the form of a window and return it with single blanks; raises ValueError."""
    window(text)
    return " ".join(text.split())


def time_zone(text: str) -> str:
    """Check the form of the name of a time zone; raises ValueError."""
    if text and not (_ZONE.fullmatch(text) and len(text) <= MAX_CHARACTERS):
        raise ValueError(f"{text[:80]!r} is not the name of a time zone; expected something like Europe/Berlin or UTC")
    return text


def holiday_place(text: str) -> str:
    """Check the form of a country or a part of one (ISO 3166-1 and 3166-2); raises ValueError."""
    if text and not _PLACE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a country or a part of one; expected something like DE, DE-BE or US-CA")
    return text


def _days(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset(DAYS)
    found: set[str] = set()
    for part in text.split(","):
        first, dash, last = (each.capitalize() for each in part.partition("-"))
        known = [day for day in (first, *([last] if dash else [])) if day in DAYS]
        if len(known) != (2 if dash else 1) or (dash and "Hol" in known):
            raise ValueError(f"{part[:20]!r} is not a day, nor days like Mon-Fri; the days are {', '.join(DAYS)}")
        start, end = DAYS.index(known[0]), DAYS.index(known[-1])
        found.update(DAYS[day % 7] if dash else DAYS[day] for day in range(start, end + 1 if end >= start else end + 8))
    return frozenset(found)


def _times(shown: str, start_h: int, start_min: int, end_h: int, end_min: int) -> tuple[int, int]:
    start, end = start_h * 3600 + start_min * 60, end_h * 3600 + end_min * 60
    if max(start_min, end_min) > 59 or start >= DAY_S or end > DAY_S:
        raise ValueError(f"{shown}: times are from 00:00 to 24:00")
    if start == end:
        raise ValueError(f"{shown} begins and ends at one time; write 00:00-24:00 for a whole day")
    return start, end if end > start else end + DAY_S


def _duration_s(shown: str, text: str) -> float:
    try:
        seconds = float(plain(text.strip(), "s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_CRON_S:
        raise ValueError(f"{shown}: {text!r} is not a duration of at most 7d; expected something like 10h")
    return seconds
