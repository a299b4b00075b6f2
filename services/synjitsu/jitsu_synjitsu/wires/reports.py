"""What Synjitsu tells the reaper, about once a second and at once when a VM drains (messages/reaper.py)."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Done, Report
from jitsu_protocol.model.errors import JitsuError

if TYPE_CHECKING:
    from jitsu_protocol.messages import Use
    from jitsu_runtime.world import World
    from jitsu_synjitsu.rules.running import Known
    from jitsu_synjitsu.wires.bridges import Bridges
    from jitsu_synjitsu.wires.follow import Follower
    from jitsu_synjitsu.wires.watcher import Watcher

REPORT_S = 1.0
REPORT_TIMEOUT_S = 2.0
MIN_LEASE_S = 60.0

log = structlog.get_logger("synjitsu")


class Reports:
    """The reports of one Synjitsu."""

    def __init__(self, world: World, bridges: Bridges, follower: Follower, watcher: Watcher) -> None:
        self._clock = world.clock
        self._bridges = bridges
        self._follower = follower
        self._watcher = watcher
        self._reaper = world.client("reaper")
        host = world.settings.hypervisor.host
        self._host = host
        self._name = f"synjitsu-{host}" if host else "synjitsu"
        self._instance = uuid.uuid4().hex
        self._batch = 0

    async def run(self) -> None:
        """Report for ever, once there is a bridge.

        One that has just started says that it has nothing to tell only when it has heard of all VMs: the reaper would
        take them for unused.
        """
        await self._follower.knows_states.wait()
        if not self._bridges:
            await self.leave()
        await self._bridges.are_there.wait()
        await self._follower.knows_vms.wait()
        silent = False
        while True:
            self._watcher.report_soon.clear()
            try:
                await self._report()
            except JitsuError as error:
                if not silent:
                    log.warning("the reaper does not accept reports", reason=str(error))
                silent = True
            else:
                silent = False
            self._save()
            try:
                async with asyncio.timeout(REPORT_S):
                    await self._watcher.report_soon.wait()
            except TimeoutError:
                continue

    def _save(self) -> None:
        changes: dict[str, Known | None] = {}
        for bridge in self._bridges:
            for vm, known in bridge.activity.unsaved().items():
                if known is not None or vm not in changes:  # else it has moved to another bridge
                    changes[vm] = known
        self._watcher.memory.save(changes)

    async def _report(self) -> None:
        """Tell what was used, and which drains are honoured: all that came before has been looked at."""
        for bridge in self._bridges:
            bridge.look_now()
        now = self._clock.now()
        activities = [bridge.activity for bridge in self._bridges]
        uses = [(activity, *each) for activity in activities for each in activity.uses(now)]
        await self._send([use for _, use, _ in uses], self._watcher.drains())
        for activity, use, up_to in uses:
            activity.told(use.vm, up_to)

    async def _send(self, uses: list[Use], drains: list[str], *, leaving: bool = False) -> None:
        self._batch += 1
        longest = max((bridge.activity.longest_idle() for bridge in self._bridges), default=0.0)
        report = Report(
            replica=self._name,
            service="synjitsu",
            host=self._host,
            instance=self._instance,
            batch=self._batch,
            lease_s=max(MIN_LEASE_S, longest),
            uses=uses,
            drains=drains,
            leaving=leaving,
        )
        await self._reaper.call(report, Done, REPORT_TIMEOUT_S)

    async def leave(self) -> None:
        """Say that Synjitsu tells nothing of this host any more.

        One that only stops does not: until it is back nothing may be stopped that somebody may be connected to.
        """
        while True:
            try:
                await self._send([], [], leaving=True)
                return
            except JitsuError:
                await asyncio.sleep(REPORT_S)
