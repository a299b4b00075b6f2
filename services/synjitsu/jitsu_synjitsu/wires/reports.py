"""What Synjitsu reports to the reaper: once a second, and at once when a VM drains (runtime/usage.py has the loop)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.askers import asked
from jitsu_protocol.messages import Report
from jitsu_protocol.messages.reaper import MAX_ASKED
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.usage import REPORT_S
from jitsu_runtime.usage import UsageReports

if TYPE_CHECKING:
    from collections.abc import Collection

    from jitsu_protocol.askers import Askers
    from jitsu_protocol.messages import Use
    from jitsu_runtime.world import World
    from jitsu_synjitsu.rules.activity import Activity
    from jitsu_synjitsu.rules.running import Known
    from jitsu_synjitsu.wires.bridges import Bridges
    from jitsu_synjitsu.wires.follow import Follower
    from jitsu_synjitsu.wires.watcher import Watcher

MIN_LEASE_S = 60.0


class TrafficSource:
    """What a report says: which VMs were used, and which drains are honoured."""

    def __init__(self, host: str, bridges: Bridges, watcher: Watcher, askers: Askers) -> None:
        self._host = host
        self._bridges = bridges
        self._watcher = watcher
        self._askers = askers
        self._batch = 0
        self._sent: list[tuple[Activity, Use, float]] = []
        """The uses in the last report, each with what its bridge wants to know when the reaper has it."""

    def prepare(self) -> bool:
        """Look at all frames that have come until now, because a report says which drains are honoured."""
        for bridge in self._bridges:
            bridge.look_now()
        return False

    def report(self, now: float, *, leaving: bool = False) -> Report:
        """Return a new report. One that was lost is not sent again: what it said of drains may no longer be true."""
        self._batch += 1
        activities = [bridge.activity for bridge in self._bridges]
        self._sent = [] if leaving else [(each, *use) for each in activities for use in each.unreported.uses(now)]
        for activity in activities:
            activity.clients.give(self._askers)
        connected = [each.clients.connected(each.vms, self._askers.privacy, now) for each in activities]
        longest = max((activity.longest_idle() for activity in activities), default=0.0)
        return Report(
            replica=self._askers.reporter,
            service="synjitsu",
            host=self._host,
            instance=self._askers.instance,
            batch=self._batch,
            lease_s=max(MIN_LEASE_S, longest),
            uses=[use for _, use, _ in self._sent],
            drains=[] if leaving else self._watcher.drains(),
            leaving=leaving,
            asked=asked(self._askers.take(), now),
            connected=[each for of_one in connected for each in of_one][:MAX_ASKED],
        )

    def acknowledged(self, sent_at: float) -> None:
        """Note that the reaper has the last report."""
        del sent_at  # each use has a time of its own
        for activity, use, up_to in self._sent:
            activity.unreported.acknowledged(use.vm, up_to)
        self._sent = []

    def has_more(self) -> bool:
        """Return False: VMs that somebody is connected to are reported again each second, however many there are."""
        return False

    def drains(self) -> Collection[str]:
        """Return the drains that are honoured."""
        return self._watcher.drains()

    def reported(self) -> None:
        """Write down which connections are open."""
        changes: dict[str, Known | None] = {}
        for bridge in self._bridges:
            for vm, known in bridge.activity.unsaved().items():
                if known is not None or vm not in changes:  # else it has moved to another bridge
                    changes[vm] = known
        self._watcher.memory.save(changes)


class Reports:
    """The reports of one Synjitsu."""

    def __init__(self, world: World, bridges: Bridges, follower: Follower, watcher: Watcher, askers: Askers) -> None:
        self._bridges = bridges
        self._follower = follower
        self._usage = UsageReports(world, TrafficSource(world.settings.hypervisor.host, bridges, watcher, askers))
        watcher.drain_seen = self._usage.drain_seen

    async def run(self) -> None:
        """Report from when there is a bridge.

        A Synjitsu that has just started says that it has nothing to report only when it has heard of all VMs: otherwise
        the reaper would take them for unused.
        """
        await self._follower.knows_states.wait()
        if not self._bridges:
            await self.leave()
        await self._bridges.are_there.wait()
        await self._follower.knows_vms.wait()
        self._usage.start()

    async def leave(self) -> None:
        """Tell the reaper that Synjitsu reports nothing of this host any more.

        One that only stops does not: until it is back, nothing may be stopped that somebody may be connected to.
        """
        while True:
            try:
                await self._usage.leave()
                return
            except JitsuError:
                await asyncio.sleep(REPORT_S)
