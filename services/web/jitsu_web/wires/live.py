"""Follows the store and every vmd, and publishes what happens: pages are told, and no request asks anybody for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import Committed, Leaves, List, Timelines, Trace
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import STATS_ROOT
from jitsu_protocol.wire.codec import body_as
from jitsu_protocol.wire.pages import VmPages
from jitsu_runtime.bus.follow import SNAPSHOT_TIMEOUT_S, follow_states
from jitsu_runtime.clock import sleep
from jitsu_web.rules.board import Board
from jitsu_web.rules.events import SummonEvent, VmEvent
from jitsu_web.rules.timelines import summon_of
from jitsu_web.wires.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages import FeedItem, VmStatus
    from jitsu_runtime.world import Followed, Snapshot, World
    from jitsu_web.rules.events import WebEvent

STATISTICS_S = 5.0
"""How often statistics are read: dns reports them once a second, and the store commits them once a minute."""
TRACE_TIMEOUT_S = 2.0
BOOTING = frozenset({"starting", "booting"})
MAX_TRACES = 16
"""Read at most this many summons at a time; of a thousand VMs that start at once, the others are not published."""

log = structlog.get_logger("web")


class Live:
    """The board, the hub, and what feeds them."""

    def __init__(self, world: World, epoch: str) -> None:
        """`epoch` differs for each start of this process."""
        self._world = world
        self._clock = world.clock
        self.store = world.client("store")
        self.vmds = world.vmds()
        self.board = Board(self._clock.now(), self._clock.wall())
        self.hub = Hub(epoch)
        self._store_feed: Followed | None = None
        self._vmd_feeds: dict[str, Followed] = {}
        self._traces = 0
        world.metrics.gauge("readers", "Readers of events.", lambda: float(self.hub.readers))
        self._events = world.metrics.counter("events", "Events published.", ["kind"])

    def start(self) -> None:
        """Begin to follow; returns at once, and what is not heard yet is shown as that."""
        pages: dict[str, str] = {}

        async def ask() -> Snapshot:
            pages.clear()
            reader = VmPages()
            while (request := reader.request()) is not None:
                page = await self.store.call(request, Leaves, SNAPSHOT_TIMEOUT_S)
                pages.update(page.leaves)
                reader.received(page)
            assert reader.first is not None
            return reader.first.epoch, reader.first.number, reader.first

        def reset(first: Any) -> None:
            self.board.commit = first.commit
            self._publish(self.board.configured(pages, self._clock.now()))
            pages.clear()

        self._store_feed = self._world.subscribe("store", "vm", ask=ask, reset=reset, apply=self._committed)
        self._vmd_feeds = follow_states(self._world, self.vmds, self._listed, self._changed)
        self._world.spawn(self._read_statistics(), "statistics")

    def hears_store(self) -> bool:
        """Say whether the store is heard and nothing was missed."""
        return self._store_feed is not None and self._store_feed.is_live()

    def hears_vmds(self) -> dict[str, bool]:
        """Say the same of the vmd of each host."""
        return {host: feed.is_live() for host, feed in self._vmd_feeds.items()}

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        silent = [host or "this host" for host, live in self.hears_vmds().items() if not live]
        found = [] if self.hears_store() else ["the store is not heard, so what is shown may be old"]
        return [*found, *(f"the vmd of {host} is not heard" for host in silent)]

    def vm(self, uuid: str) -> dict[str, Any]:
        """Return a VM as it is now."""
        return self.board.vm(uuid, self._clock.now())

    def _committed(self, item: FeedItem) -> None:
        committed = body_as(Committed, item.body_kind, item.body or {})
        self.board.commit = committed.commit
        changes = [(change.path, change.value) for change in committed.changes]
        self._publish(self.board.committed(changes, self._clock.now()))

    def _listed(self, statuses: list[VmStatus], host: str) -> None:
        self._publish(self.board.listed(statuses, host, self._clock.now()))

    def _changed(self, status: VmStatus, gone: bool) -> None:
        self._publish(self.board.changed(status, gone=gone, now=self._clock.now()))

    def _publish(self, events: Iterable[WebEvent]) -> None:
        events = list(events)
        for event in events:
            self._events.labels(event.kind).inc()
            if isinstance(event, VmEvent) and event.before in BOOTING and event.state not in BOOTING:
                self._trace(str(event.vm["uuid"]), str(event.vm["host"]))
        self.hub.publish(events)

    def _trace(self, uuid: str, host: str) -> None:
        if self._traces < MAX_TRACES and host in self.vmds:
            self._traces += 1
            self._world.spawn(self._read_trace(uuid, host), "trace")

    async def _read_trace(self, uuid: str, host: str) -> None:
        """Publish the summon that has just ended."""
        try:
            found = await self.vmds[host].call(Trace(vm=uuid, limit=1), Timelines, TRACE_TIMEOUT_S)
            self._publish(SummonEvent(summon_of(each)) for each in found.timelines if each.outcome)
        except JitsuError as error:
            log.info("summon not read", vm=uuid, reason=str(error))
        finally:
            self._traces -= 1

    async def _read_statistics(self) -> None:
        """Read the statistics of all VMs again and again, until cancelled."""
        while True:
            try:
                read = await self.store.call(List(prefix=STATS_ROOT, topic="stats"), Leaves, SNAPSHOT_TIMEOUT_S)
                self._publish(self.board.counted(read.leaves, self._clock.now()))
            except JitsuError as error:
                log.debug("statistics not read", reason=str(error))
            self.board.forget_history()
            await sleep(self._clock, STATISTICS_S)
