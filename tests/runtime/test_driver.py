"""The driver of a machine and its timer; a process that was suspended reads before it judges."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from jitsu_runtime.driver import LISTEN_S, SUSPENDED_S, Alarm, Driver
from tests.support.clock import VirtualClock


class Rings:
    """An alarm, and when it rang."""

    def __init__(self) -> None:
        self.clock = VirtualClock(100.0)
        self.alarm = Alarm(lambda: self.at.append(self.clock.now()), self.clock)
        self.at: list[float] = []


def test_an_alarm_rings_once_at_the_time_that_was_set_last() -> None:
    rings = Rings()
    for seconds in (1.0, 30.0, 5.0):
        rings.alarm.set(100.0 + seconds)
    rings.clock.advance(60.0)
    assert rings.at == [105.0]


def test_a_deadline_that_is_past_rings_at_once() -> None:
    rings = Rings()
    rings.alarm.set(90.0)
    rings.clock.advance(0.0)
    assert rings.at == [100.0]


def test_an_alarm_without_a_deadline_does_not_ring() -> None:
    rings = Rings()
    rings.alarm.set(101.0)
    rings.alarm.set(None)
    rings.clock.advance(10.0)
    assert rings.at == []


def test_the_same_time_may_be_set_again_when_it_rings() -> None:
    clock, rung = VirtualClock(), list[float]()

    def ring() -> None:
        rung.append(clock.now())
        if len(rung) < 3:
            alarm.set(1.0)

    alarm = Alarm(ring, clock)
    alarm.set(1.0)
    clock.advance(2.0)
    assert rung == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("moves", [False, True])
def test_a_process_that_was_suspended_reads_before_it_judges(moves: bool) -> None:
    """`moves`: what is read makes another deadline the earliest, which is past as well."""
    rings = Rings()
    rings.alarm.set(101.0)
    rings.clock.suspend(1.0 + SUSPENDED_S + 0.1)
    assert rings.at == []
    if moves:
        rings.alarm.set(101.2)
    resumed = rings.clock.now()
    rings.clock.advance(10.0)
    assert rings.at == [resumed + LISTEN_S]


def test_a_process_that_is_always_late_judges_too() -> None:
    rings = Rings()
    rings.alarm.set(101.0)
    rings.clock.suspend(2.0)
    rings.clock.suspend(2.0)
    assert rings.at == [104.0]


def test_a_deadline_that_was_put_off_by_what_was_read_is_not_judged() -> None:
    rings = Rings()
    rings.alarm.set(101.0)
    rings.clock.suspend(2.0)
    rings.alarm.set(110.0)
    rings.clock.advance(7.0)
    assert rings.at == []
    rings.clock.advance(1.0)
    assert rings.at == [110.0]


@dataclass
class Countdown:
    """A machine that beeps each second until it has beeped `left` times."""

    left: int
    next_at: float | None = None
    beeps: list[str] = field(default_factory=list)

    def handle(self, event: str, now: float) -> list[str]:
        self.next_at = now + 1.0
        return [event]

    def deadline(self) -> float | None:
        return self.next_at

    def tick(self, now: float) -> list[str]:
        if self.next_at is None or now < self.next_at:
            return []
        self.left -= 1
        self.next_at = now + 1.0 if self.left else None
        return ["beep"]


def test_a_driver_performs_actions_and_calls_tick_at_each_deadline() -> None:
    clock, done = VirtualClock(), list[tuple[float, str]]()
    driver = Driver[str, str](Countdown(2), lambda actions: done.extend((clock.now(), each) for each in actions), clock)
    driver.handle("begun")
    clock.advance(10.0)
    assert done == [(0.0, "begun"), (1.0, "beep"), (2.0, "beep")]


def test_a_driver_that_is_closed_calls_tick_no_longer() -> None:
    clock, done = VirtualClock(), list[str]()
    driver = Driver[str, str](Countdown(2), done.extend, clock)
    driver.handle("begun")
    driver.close()
    clock.advance(10.0)
    assert done == ["begun"]
