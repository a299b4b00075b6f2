"""The store's rpc and feed over one repository."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.errors import Conflict, Invalid, JitsuError, NotFound, Refused
from jitsu_protocol.inventory import Inventory
from jitsu_protocol.messages import (
    Applied,
    Apply,
    Change,
    Commit,
    Committed,
    Done,
    History,
    Leaves,
    List,
    Log,
    Read,
    Record,
    Value,
)
from jitsu_protocol.vm import STATS_ROOT
from jitsu_store.rules import tree
from jitsu_store.rules.validate import path_reasons, touched_vms, vm_reasons

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.bus import FeedServer, Handler
    from jitsu_protocol.messages import Request
    from jitsu_protocol.metrics import Metrics
    from jitsu_store.wires.git import GitRepository

FLUSH_S = 1.0
"""Statistics are committed that often; they lose at most that second."""
REQUESTS_KEPT = 1000
MAX_RECORDED = 1_000_000
MAX_LOG_SCAN = 100_000

log = structlog.get_logger("store")


class StoreServer:
    """Holds the leaves in memory, the truth in Git."""

    def __init__(self, repository: GitRepository, feed: FeedServer, metrics: Metrics) -> None:
        self._repository = repository
        self._feed = feed
        self._leaves = repository.leaves()
        self._inventory = Inventory()
        self._inventory.reset(self._leaves)
        self._head = repository.head()
        self._recorded: dict[str, tuple[str, str]] = {}  # path -> (value, service)
        self._requests: OrderedDict[str, tuple[str, int]] = OrderedDict()
        for record, _ in repository.log():
            if record.request:
                self._requests[record.request] = (record.id, 0)
            if len(self._requests) >= REQUESTS_KEPT:
                break
        self._commits = metrics.counter("commits", "Commits made.", ["topic"])
        self._refused = metrics.counter("refused_changes", "Changes that were refused.", ["code"])
        metrics.gauge("leaves", "Leaves in the tree.", lambda: float(len(self._leaves)))
        for uuid, fault in self._inventory.faults.items():
            log.warning("VM in the store cannot be used", uuid=uuid, reason=fault)

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            Read: self.read,
            List: self.list,
            Apply: self.apply,
            Record: self.record,
            Log: self.log,
        }

    def read(self, request: Read) -> Value:
        """Answer Read."""
        path = tree.clean(request.path)
        if path in self._leaves:
            return Value(value=self._leaves[path], commit=self._head)
        below = len(tree.below(self._leaves, path))
        if below:
            raise NotFound(f"{path} is no value: it has {below} below it", hint="jitsu tree shows them")
        raise NotFound(f"{path} does not exist", hint=tree.nearest(self._leaves, path))

    def list(self, request: List) -> Leaves:
        """Answer List."""
        feed = self._feed.feeds.get(request.topic)
        if feed is None:
            raise NotFound(f"there is no feed {request.topic!r}")
        return Leaves(
            leaves=tree.below(self._leaves, request.prefix),
            commit=self._head,
            epoch=feed.epoch,
            number=feed.number,
        )

    def apply(self, request: Apply) -> Applied:
        """Answer Apply."""
        if request.request in self._requests:
            commit, count = self._requests[request.request]
            return Applied(commit=commit, changed=count)
        try:
            changes = self._checked(request)
        except JitsuError as error:
            self._refused.labels(error.code).inc()
            raise
        if changes:
            self._commit(changes, request.author, request.message, request.request)
        self._requests[request.request] = (self._head, len(changes))
        if len(self._requests) > REQUESTS_KEPT:
            self._requests.popitem(last=False)
        return Applied(commit=self._head, changed=len(changes))

    def record(self, request: Record) -> Done:
        """Answer Record."""
        for path in request.values:
            if not path.startswith(STATS_ROOT + "/") or tree.path_fault(path):
                raise Refused(f"statistics are below {STATS_ROOT}/, not at {path[:100]!r}")
        if len(self._recorded) + len(request.values) > MAX_RECORDED:
            raise Refused("too many statistics wait to be committed")
        for path, value in request.values.items():
            self._recorded[path] = (value, request.service)
        return Done()

    async def log(self, request: Log) -> History:
        """Answer Log."""
        path = tree.clean(request.path)
        commits: list[Commit] = []
        for scanned, (record, commit) in enumerate(self._repository.log()):
            if len(commits) >= request.limit or scanned >= MAX_LOG_SCAN:
                break
            if not path or self._repository.touches(commit, path):
                commits.append(Commit(id=record.id, ts=record.ts, author=record.author, message=record.message))
            if scanned % 100 == 99:
                await asyncio.sleep(0)  # a long history must not hold up a write
        return History(commits=commits)

    async def run(self) -> None:
        """Commit statistics, about once a second, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                self.flush()
            except JitsuError as error:
                log.error("statistics were not committed", error=str(error))

    def flush(self) -> None:
        """Commit the statistics that wait."""
        changes = {path: value for path, (value, _) in self._recorded.items() if self._leaves.get(path) != value}
        if any(path not in self._leaves for path in changes):
            above = tree.directories(self._leaves)
            changes = {p: v for p, v in changes.items() if not tree.blocked(self._leaves, above, p)}
        services = " ".join(sorted({service for _, service in self._recorded.values()}))
        if changes:
            self._commit(changes, services, "Statistics", "")
        self._recorded.clear()

    def _checked(self, request: Apply) -> dict[str, str | None]:
        if request.base and request.base != self._head:
            raise Conflict(f"the tree has changed: it is at {self._head}, not at {request.base}")
        changes = tree.changed(self._leaves, request.changes)
        reasons = path_reasons(self._leaves, changes)
        if not reasons:
            # Try it on the inventory, and take it back if it cannot stay.
            touched = touched_vms(changes)
            self._inventory.apply(changes.items())
            reasons = vm_reasons(self._inventory, touched)
            if reasons:
                self._inventory.apply((path, self._leaves.get(path)) for path in changes)
        if reasons:
            raise Invalid("refused: " + "\n".join(reasons))
        return changes

    def _commit(self, changes: Mapping[str, str | None], author: str, message: str, request: str) -> None:
        try:
            self._head = self._repository.commit(changes, author, message, request, time.time())
        except JitsuError:
            self._inventory.apply((path, self._leaves.get(path)) for path in changes)
            raise
        old = {path: self._leaves.get(path) for path in changes}
        for path, value in changes.items():
            if value is None:
                self._leaves.pop(path, None)
            else:
                self._leaves[path] = value
        for topic, prefix in tree.TOPICS.items():
            items = [
                Change(path=path, value=value, old=old[path])
                for path, value in changes.items()
                if path.startswith(prefix)
            ]
            if items:
                self._commits.labels(topic).inc()
                self._feed.publish(topic, Committed(commit=self._head, changes=items))
