"""What a schedule says, against a clock that is read minute by minute."""

from __future__ import annotations

import re
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.schedules import DAYS, CronWindow, DailyWindow, window
from jitsu_vmd.rules.calendar import Calendar, Phase, Schedule, check, schedule
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def of(awake: Sequence[str], asleep: Sequence[str] = (), *, holidays: Sequence[date] = ()) -> Schedule:
    return Schedule(Calendar(BERLIN, holidays), [window(each) for each in awake], [window(each) for each in asleep])


# --- the forms ---


@pytest.mark.parametrize(
    ("text", "days", "start_s", "end_s"),
    [
        ("08:00-18:00", DAYS, 28_800, 64_800),
        ("Mon-Fri 08:00 - 18:00", DAYS[:5], 28_800, 64_800),
        ("mon,WED 00:00-24:00", ("Mon", "Wed"), 0, 86_400),
        ("Fri-Mon 22:00-06:00", ("Fri", "Sat", "Sun", "Mon"), 79_200, 108_000),
        ("Sat,Hol 10:30-00:00", ("Sat", "Hol"), 37_800, 86_400),
    ],
)
def test_a_window_has_days_and_times(text: str, days: Sequence[str], start_s: int, end_s: int) -> None:
    assert window(text) == DailyWindow(frozenset(days), start_s, end_s)


def test_a_cron_window_has_an_expression_and_a_duration() -> None:
    assert window("0 8  * * 1-5 for 10h") == CronWindow("0 8 * * 1-5", 36_000.0)
    assert window("*/15 0 1,15 JAN-MAR * for 90") == CronWindow("*/15 0 1,15 JAN-MAR *", 90.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a time of day; expected something like 'Mon-Fri 08:00-18:00'"),
        ("8-18", "is not a time of day"),
        ("Mon 25:00-26:00", "times are from 00:00 to 24:00"),
        ("24:00-01:00", "times are from 00:00 to 24:00"),
        ("08:60-09:00", "times are from 00:00 to 24:00"),
        ("08:00-08:00", "begins and ends at one time; write 00:00-24:00 for a whole day"),
        ("Mo 08:00-18:00", "'Mo' is not a day, nor days like Mon-Fri; the days are Mon, Tue"),
        ("Mon-Hol 08:00-18:00", "'Mon-Hol' is not a day"),
        ("Mon-,Tue 08:00-18:00", "'Mon-' is not a day"),
        ("0 8 * * 1-5 for 8d", "'8d' is not a duration of at most 7d"),
        ("0 8 * * 1-5 for soon", "is not a time of day"),
        ("0 8 * * 1-5; rm for 1h", "is not a time of day"),
        ("x" * 9999, "characters long, 200 are allowed"),
    ],
)
def test_what_is_not_a_window_is_refused_with_what_to_write(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        window(text)


# --- what they say ---


def test_a_window_on_work_days() -> None:
    office = of(["Mon-Fri 08:00-18:00"])
    assert office.phase(at("2026-11-27 17:59:59")) is Phase.AWAKE, "a Friday"
    assert office.changes_after(at("2026-11-27 17:59")) == (at("2026-11-27 18:00"), Phase.FREE)
    assert office.changes_after(at("2026-11-27 18:00")) == (at("2026-11-30 08:00"), Phase.AWAKE)


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = of(["Sat 22:00-06:00"])
    assert [night.phase(at(f"2026-11-{day} 03:00")) for day in (28, 29, 30)] == [Phase.FREE, Phase.AWAKE, Phase.FREE]
    assert night.changes_after(at("2026-11-29 00:00")) == (at("2026-11-29 06:00"), Phase.FREE)


def test_a_public_holiday_is_no_other_day() -> None:
    christmas = date(2026, 12, 25)
    office = of(["Mon-Fri 08:00-18:00", "Hol 10:00-12:00"], holidays=[christmas])
    assert office.phase(at("2026-12-25 09:00")) is Phase.FREE, "a Friday otherwise"
    assert office.phase(at("2026-12-25 11:00")) is Phase.AWAKE
    every = of(["08:00-18:00"], holidays=[christmas])
    assert every.phase(at("2026-12-25 09:00")) is Phase.AWAKE, "no day is named"


def test_asleep_wins() -> None:
    both = of(["00:00-24:00"], ["Sun 02:00-04:00"])
    assert both.phase(at("2026-11-29 03:00")) is Phase.ASLEEP
    assert both.changes_after(at("2026-11-29 03:00")) == (at("2026-11-29 04:00"), Phase.AWAKE)


def test_a_time_that_the_clock_skips_is_in_no_window() -> None:
    skipped = of(["02:30-03:30"])
    assert skipped.changes_after(at("2026-03-29 01:00")) == (at("2026-03-29 03:00"), Phase.AWAKE)
    assert skipped.changes_after(at("2026-03-29 03:00")) == (at("2026-03-29 03:30"), Phase.FREE)
    assert of(["02:00-03:00"]).changes_after(at("2026-03-29 01:00"))[0] == at("2026-03-30 02:00")


def test_a_time_that_the_clock_reads_twice_is_in_the_window_twice() -> None:
    twice = of(["02:00-02:30"])
    first, second = (at("2026-10-25 02:00", fold=fold).astimezone(UTC) for fold in (0, 1))
    assert second - first == timedelta(hours=1)
    assert twice.changes_after(first) == (first + timedelta(minutes=30), Phase.FREE)
    assert twice.changes_after(first + timedelta(minutes=30)) == (second, Phase.AWAKE)


def test_a_cron_window_lasts_from_each_time_that_is_due() -> None:
    backup = of([], ["0 3 * * 7 for 2h"])
    assert backup.changes_after(at("2026-11-28 12:00")) == (at("2026-11-29 03:00"), Phase.ASLEEP)
    assert backup.changes_after(at("2026-11-29 03:00")) == (at("2026-11-29 05:00"), Phase.FREE)
    always = of(["* * * * * for 5m"])
    until, phase = always.changes_after(at("2026-11-28 12:00"))
    assert (phase, until > at("2026-11-28 20:00")) == (Phase.AWAKE, True), "it is looked at again some time"


def test_a_window_that_is_never_open_is_looked_at_again_after_a_year() -> None:
    until, phase = of(["Hol 08:00-09:00"]).changes_after(at("2026-11-28 12:00"))
    assert (phase, until > at("2027-11-28 12:00")) == (Phase.FREE, True)


ZONES = [
    ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
]
TIMES = st.integers(0, 47).map(lambda half: f"{half // 2:02}:{half % 2 * 30:02}")
NAMED = st.lists(st.sampled_from(DAYS), min_size=1, max_size=4).map(",".join)
WINDOWS = st.lists(st.tuples(NAMED, TIMES, TIMES).filter(lambda each: each[1] != each[2]), max_size=3)


@given(
    st.sampled_from(ZONES),
    WINDOWS,
    WINDOWS,
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),
    st.sets(st.integers(0, 9)),
)
def test_the_next_change_is_what_a_clock_that_is_read_every_quarter_of_an_hour_finds(
    zone: ZoneInfo,
    awake: list[tuple[str, str, str]],
    asleep: list[tuple[str, str, str]],
    start: datetime,
    free_days: set[int],
) -> None:
    """Every boundary and every jump of these clocks is at a quarter of an hour."""
    now = start.replace(minute=start.minute // 15 * 15, second=0, microsecond=0, tzinfo=UTC)
    holidays = {now.astimezone(zone).date() + timedelta(days=day) for day in free_days}
    lists = [[window(f"{days} {first}-{last}") for days, first, last in each] for each in (awake, asleep)]
    planned = Schedule(Calendar(zone, holidays), *lists)

    def read(moment: datetime) -> Phase:
        """Read the local clock, and look at the words of each window."""
        local = moment.astimezone(zone)
        found = Phase.FREE
        for phase, windows in ((Phase.AWAKE, awake), (Phase.ASLEEP, asleep)):
            for days, first, last in windows:
                clock = f"{local.hour:02}:{local.minute:02}"
                yesterday = local.date() - timedelta(days=1)
                today_is, yesterday_was = (
                    ("Hol" if day in holidays else day.strftime("%a")) in days.split(",")
                    for day in (local.date(), yesterday)
                )
                if first < last:
                    is_open = today_is and first <= clock < last
                else:
                    is_open = (today_is and clock >= first) or (yesterday_was and clock < last)
                found = phase if is_open else found
        return found

    phase = planned.phase(now)
    assert phase is read(now)
    until, then = planned.changes_after(now)
    moment = now + timedelta(minutes=15)
    while read(moment) is phase and moment < now + timedelta(days=9):
        moment += timedelta(minutes=15)
    if read(moment) is phase:
        assert until > now + timedelta(days=8)
    else:
        assert (until, then) == (moment, read(moment))


# --- of a VM ---


def test_the_schedule_of_a_vm_has_its_zone_and_its_holidays() -> None:
    keys = {"awake": "Mon-Fri 08:00-18:00", "time_zone": "America/New_York", "holidays": "US"}
    planned = schedule(make_vm(**keys), lambda: BERLIN)
    assert planned is not None
    new_york = ZoneInfo("America/New_York")
    assert planned.changes_after(at("2026-11-25 19:00", new_york)) == (at("2026-11-27 08:00", new_york), Phase.AWAKE), (
        "the day between is Thanksgiving"
    )
    assert schedule(make_vm(), lambda: BERLIN) is None
    local = schedule(make_vm(asleep="22:00-06:00"), lambda: BERLIN)
    assert local is not None
    assert local.phase(at("2026-11-25 23:00")) is Phase.ASLEEP


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"time_zone": "Europe/Berlinn"}, "no time zone is called 'Europe/Berlinn'"),
        ({"holidays": "XX"}, "the public holidays of XX are not known"),
        ({"holidays": "DE-XX"}, "the public holidays of DE-XX are not known"),
        ({"asleep": "99 8 * * * for 1h"}, "'99 8 \\* \\* \\*' is not a cron expression"),
        ({"asleep": "0 0 31 2 * for 1h"}, "'0 0 31 2 \\*' is (never due|not a cron expression)"),
    ],
)
def test_what_no_calendar_knows_is_refused(keys: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        schedule(make_vm(**{"awake": "08:00-18:00"} | keys), lambda: BERLIN)


def test_a_time_zone_without_a_schedule_is_refused() -> None:
    with pytest.raises(Refused, match="time_zone: it is for awake and asleep, and the VM has neither; remove it"):
        check(make_vm(time_zone="UTC"))
    with pytest.raises(Refused, match="holidays: "):
        check(make_vm(holidays="DE"))
    check(make_vm(holidays="DE", awake="Hol 08:00-18:00"))
    check(make_vm())


@pytest.mark.parametrize(
    ("library", "keys", "reason"),
    [
        ("holidays", {"awake": "08:00-18:00", "holidays": "DE"}, "holidays: the calendars are not installed here; "),
        ("cronsim", {"awake": "0 8 * * 1-5 for 1h"}, "'0 8 * * 1-5': the calendars are not installed here; "),
    ],
)
def test_a_library_that_is_not_installed_is_a_refusal_that_says_what_to_do(
    library: str, keys: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Refused, match=re.escape(reason)):
        check(make_vm(**keys))
    check(make_vm(awake="Mon-Fri 08:00-18:00", time_zone="Europe/Berlin"))
