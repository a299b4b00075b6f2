"""Reports to the reaper which VMs are in use, for dns and synjitsu: drives the machine of the protocol's usage.py.

A service gives it a `UsageSource`, which makes the reports, and calls `drain_seen` when a VM begins to drain.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.usage import (
    DrainSeen,
    LogRecovery,
    LogRefusal,
    ReportAccepted,
    ReportRefused,
    SendReport,
    UsageReporter,
)
from jitsu_runtime.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from jitsu_protocol.messages import Report
    from jitsu_protocol.usage import Action
    from jitsu_runtime.world import Caller, World

REPORT_TIMEOUT_S = 2.0


class UsageSource(Protocol):
    """Makes the reports of one service."""

    def prepare(self) -> bool:
        """Do a part of the work that has to precede a report, and return whether more of it is left."""

    def report(self, now: float, *, leaving: bool = False) -> Report:
        """Return the next report, or the last one again if it was not acknowledged."""

    def acknowledged(self, sent_at: float) -> None:
        """Note that the reaper has acknowledged the report that was sent at `sent_at`."""

    def has_more(self) -> bool:
        """Return whether more use has to be reported without delay."""

    def drains(self) -> Collection[str]:
        """Return the ids of the drains that the service honours."""

    def reported(self) -> None:
        """Note that a report has been sent, whether or not it was acknowledged."""


class UsageReports:
    """Sends the reports of one process until it leaves."""

    def __init__(self, world: World, source: UsageSource) -> None:
        self._clock, self._spawn = world.clock, world.spawn
        self._reaper: Caller = world.client("reaper")
        self._source = source
        self._log = structlog.get_logger(world.service)
        self._is_reporting = False
        self._driver = Driver(UsageReporter(world.clock.now()), self._perform, world.clock)

    def start(self) -> None:
        """Send the first report."""
        self._is_reporting = True
        self._driver.tick()

    def drain_seen(self) -> None:
        """Report at once, because a VM has begun to drain. Before `start`, the first report has to wait for that."""
        if self._is_reporting:
            self._driver.handle(DrainSeen())

    async def leave(self) -> None:
        """Report all use that is left, then that this process leaves; raises JitsuError."""
        self._is_reporting = False
        self._driver.close()
        while True:
            while self._source.prepare():
                pass
            if not self._source.has_more():
                break
            await self._send()
        await self._send(leaving=True)

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case SendReport():
                    self._spawn(self._report(), "report")
                case LogRefusal(reason):
                    self._log.warning("the reaper does not accept reports", reason=reason)
                case LogRecovery():
                    self._log.info("the reaper accepts reports again")

    async def _report(self) -> None:
        while self._source.prepare():  # noqa: ASYNC110 it does not wait: it lets other tasks run
            await asyncio.sleep(0)
        try:
            report = await self._send()
        except JitsuError as error:
            event: ReportAccepted | ReportRefused = ReportRefused(str(error))
        else:
            lacks_drains = not set(self._source.drains()) <= set(report.drains)
            event = ReportAccepted(self._source.has_more(), lacks_drains)
        self._source.reported()
        if self._is_reporting:
            self._driver.handle(event)

    async def _send(self, *, leaving: bool = False) -> Report:
        sent_at = self._clock.now()
        report = self._source.report(sent_at, leaving=leaving)
        await self._reaper.call(report, Done, REPORT_TIMEOUT_S)
        self._source.acknowledged(sent_at)
        return report
