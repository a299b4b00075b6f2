"""When the next report to the reaper is sent."""

from __future__ import annotations

import pytest

from jitsu_protocol.machine import IllegalEvent
from jitsu_protocol.usage import (
    PIECE_S,
    REPORT_S,
    DrainSeen,
    LogRecovery,
    LogRefusal,
    ReportAccepted,
    ReportRefused,
    SendReport,
    UsageReporter,
)


def sending(now: float = 10.0) -> UsageReporter:
    made = UsageReporter(now)
    assert made.deadline() == now
    assert made.tick(now) == [SendReport()]
    return made


def test_the_next_report_follows_a_second_after_the_last_was_acknowledged() -> None:
    made = sending()
    assert made.deadline() is None, "one is under way"
    assert made.tick(20.0) == []
    assert made.handle(ReportAccepted(), 20.0) == []
    assert made.deadline() == 20.0 + REPORT_S
    assert made.tick(20.5) == []
    assert made.tick(21.0) == [SendReport()]


def test_use_that_did_not_fit_into_a_report_follows_in_a_few_milliseconds() -> None:
    made = sending()
    made.handle(ReportAccepted(has_more=True), 10.0)
    assert made.deadline() == 10.0 + PIECE_S


def test_a_drain_is_reported_at_once() -> None:
    made = sending()
    made.handle(ReportAccepted(), 10.1)
    assert made.handle(DrainSeen(), 10.2) == [SendReport()]


def test_a_drain_that_is_seen_while_a_report_is_under_way_leads_to_another_report() -> None:
    for event in (ReportAccepted(), ReportRefused("busy")):
        made = sending()
        assert made.handle(DrainSeen(), 10.1) == []
        assert SendReport() in made.handle(event, 10.2)
        assert SendReport() not in made.handle(event, 10.3), "and only one"


def test_a_report_that_was_made_before_the_drain_is_followed_by_one_that_has_it() -> None:
    made = sending()
    assert made.handle(ReportAccepted(lacks_drains=True), 10.1) == [SendReport()]


def test_a_reaper_that_refuses_reports_is_logged_once_and_asked_again_each_second() -> None:
    made = sending()
    assert made.handle(ReportRefused("it is away"), 12.0) == [LogRefusal("it is away")]
    assert made.deadline() == 12.0 + REPORT_S
    assert made.tick(13.0) == [SendReport()]
    assert made.handle(ReportRefused("it is away"), 15.0) == []
    made.tick(16.0)
    assert made.handle(ReportAccepted(), 16.1) == [LogRecovery()]
    made.tick(18.0)
    assert made.handle(ReportAccepted(), 18.1) == []


def test_an_answer_without_a_report_is_an_illegal_event() -> None:
    made = UsageReporter(1.0)
    with pytest.raises(IllegalEvent):
        made.handle(ReportAccepted(), 1.0)
    assert made.deadline() == 1.0
