"""The reports to the reaper, with a reaper that the test plays and a clock that it moves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from jitsu_protocol.messages import Done, Report
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.usage import PIECE_S, REPORT_S
from jitsu_runtime.usage import UsageReports
from tests.support.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jitsu_runtime.world import World


class Source:
    """Makes reports, and notes its calls."""

    def __init__(self) -> None:
        self.unprepared = self.left = 0
        self.drained: list[str] = []
        self.acknowledged_at: list[float] = []
        self.reports = 0

    def prepare(self) -> bool:
        self.unprepared = max(0, self.unprepared - 1)
        return self.unprepared > 0

    def report(self, now: float, *, leaving: bool = False) -> Report:
        return Report(
            replica="r", instance="i", batch=1, lease_s=1, address=f"{now}", drains=list(self.drained), leaving=leaving
        )

    def acknowledged(self, sent_at: float) -> None:
        self.acknowledged_at.append(sent_at)
        self.left = max(0, self.left - 1)

    def has_more(self) -> bool:
        return self.left > 0

    def drains(self) -> list[str]:
        return self.drained

    def reported(self) -> None:
        self.reports += 1


class Reporting:
    """A world that has a clock, tasks, and the reaper."""

    service = "dns"

    def __init__(self) -> None:
        self.clock = VirtualClock(100.0)
        self.sent: list[Report] = []
        self.answers: list[Done | Exception] = []
        self.source = Source()
        self.usage = UsageReports(cast("World", self), self.source)

    def client(self, owner: str) -> Reporting:
        assert owner == "reaper"
        return self

    async def call(self, report: Report, reply: type[Done], timeout: float) -> Done:
        self.sent.append(report)
        answer = self.answers.pop(0) if self.answers else Done()
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_report_is_sent_at_the_start_and_then_each_second() -> None:
    made = Reporting()
    made.source.unprepared = 3
    made.usage.start()
    await made.passes(0)
    assert (len(made.sent), made.source.acknowledged_at, made.source.unprepared) == (1, [100.0], 0)
    await made.passes(REPORT_S - 0.1)
    assert len(made.sent) == 1
    await made.passes(0.1)
    assert len(made.sent) == made.source.reports == 2


async def test_use_that_does_not_fit_into_one_report_follows_in_the_next_at_once() -> None:
    made = Reporting()
    made.source.left = 2
    made.usage.start()
    await made.passes(0)
    await made.passes(PIECE_S)
    assert len(made.sent) == 2
    await made.passes(PIECE_S)
    assert len(made.sent) == 2


async def test_a_drain_is_reported_at_once_but_not_before_the_first_report() -> None:
    made = Reporting()
    made.usage.drain_seen()
    await made.passes(0)
    assert made.sent == []
    made.usage.start()
    await made.passes(0)
    made.source.drained = ["d1"]
    made.usage.drain_seen()
    await made.passes(0)
    assert [report.drains for report in made.sent] == [[], ["d1"]]


async def test_a_drain_that_came_after_a_report_was_made_is_in_the_next() -> None:
    made = Reporting()
    made.usage.start()
    await asyncio.sleep(0)
    made.source.drained = ["d1"]  # `drain_seen` has not been called
    await made.passes(0)
    assert [report.drains for report in made.sent] == [[], ["d1"]]


async def test_a_reaper_that_is_away_is_logged_once_and_so_is_its_return() -> None:
    made = Reporting()
    made.answers = [Unavailable("away"), Unavailable("away")]
    with capture_logs() as logs:
        made.usage.start()
        await made.passes(0)
        for _ in range(4):
            await made.passes(REPORT_S)
    assert [line["event"] for line in logs] == [
        "the reaper does not accept reports",
        "the reaper accepts reports again",
    ]
    assert made.source.reports == len(made.sent) == 5


async def test_a_process_that_leaves_reports_all_use_first_and_nothing_afterwards() -> None:
    made = Reporting()
    made.usage.start()
    await made.passes(0)
    made.source.left, made.source.unprepared = 2, 2
    await made.usage.leave()
    assert [report.leaving for report in made.sent[1:]] == [False, False, True]
    made.usage.drain_seen()
    await made.passes(10.0)
    assert len(made.sent) == 4


async def test_a_report_that_is_under_way_when_its_process_leaves_begins_no_other() -> None:
    made = Reporting()
    made.usage.start()
    await asyncio.sleep(0)
    await made.usage.leave()
    await made.passes(10.0)
    assert [report.leaving for report in made.sent] == [False, True]


async def test_leaving_raises_the_error_of_a_reaper_that_is_away() -> None:
    made = Reporting()
    made.answers = [Unavailable("away")]
    with pytest.raises(Unavailable):
        await made.usage.leave()
