"""Records what happens, and has each target get it: the queue's file, the targets' machines, and their senders.

An event is in the file before anything else is done with it. Reading events, recording them and sending them are tasks
apart, so a receiver that is slow delays nobody but itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_runtime.clock import sleep
from jitsu_runtime.driver import Driver
from jitsu_web.outbound.rules.delivery import Bury, Delivered, ForgetLetter, Letter, SendLetter
from jitsu_web.outbound.rules.journal import Journal
from jitsu_web.outbound.rules.notices import Draft, Notice, UpWatch, drafts
from jitsu_web.outbound.rules.target import (
    LetterEvicted,
    LetterRecorded,
    SendEnded,
    Target,
    TargetAction,
    TargetEvent,
)
from jitsu_web.outbound.wires.queue_file import QueueFile
from jitsu_web.rules.events import ResetEvent, VmEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jitsu_runtime.world import World
    from jitsu_web.outbound.rules.journal import Eviction, QueueEntry
    from jitsu_web.outbound.wires.sender import Sender
    from jitsu_web.rules.events import WebEvent
    from jitsu_web.wires.hub import Hub

SYNC_S = 1.0
LOOK_S = 5.0
"""How often it is looked whether a VM has been up for long: nobody is in a hurry."""
LOST_NOTE_S = 60.0
"""How often it is said, at most, that events were lost."""

Everything = Callable[[], Iterable[Mapping[str, Any]]]
"""Returns all VMs as they are now."""

log = structlog.get_logger("web")


@dataclass
class Route:
    """One target: its sender, and the driver of its machine."""

    sender: Sender
    driver: Driver[TargetEvent, TargetAction]
    target: Target


class EventOutbox:
    """All events on their way out of this process."""

    def __init__(self, world: World, directory: Path, senders: Sequence[Sender], vms: Everything) -> None:
        """Read what an earlier process has left; raises SetupFault."""
        settings = world.settings.events
        self._world = world
        self._clock = world.clock
        self._retry_s = settings.retry_for
        self._vms = vms
        self._observers = [each.note for each in senders]
        limit = settings.queue * 1024
        self.journal = Journal(limit // 2)
        self._file = QueueFile(directory, limit) if senders else None
        self._watch = UpWatch(settings.up_longer_than)
        self._lost_said = (0, float("-inf"))
        self.routes = {each.name: self._route(each) for each in senders}
        metrics = world.metrics
        self._sent = metrics.counter("events_sent", "Attempts to deliver an event.", ["target", "outcome"])
        metrics.counted("events_lost", "Events dropped: the queue was full.", lambda: float(self.journal.lost))
        self._missed = metrics.counter("events_missed", "Times that more happened at once than can be recorded.")
        metrics.gauge("events_dead", "Events that a target does not take.", lambda: float(self.journal.count_dead()))
        metrics.gauge("events_queued", "Events to be delivered.", lambda: float(len(self.journal.entries)))
        if self._file is not None:
            self._file.cut(self.journal.load(self._file.read(), self.routes))

    def start(self, hub: Hub) -> None:
        """Begin to read events, and to deliver what is left from before."""
        if self._file is None:
            return
        for route in self.routes.values():
            self._world.spawn(route.sender.run(), f"events to {route.sender.name}")
        for entry in self.journal.entries.values():
            for name in sorted(entry.pending):
                self._enqueue(name, entry.notice)
        self._world.spawn(self._read(hub), "events out")
        self._world.spawn(self._sync(self._file), "events on disk")
        self._world.spawn(self._look(), "VMs that are up for long")

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        journal, found = self.journal, []
        if journal.lost:
            found.append(f"events were dropped: {journal.lost}, because events.queue is full")
        if dead := journal.count_dead():
            found.append(f"events could not be delivered: {dead}; GET /api/v1/events/dead lists them")
        if self._file is not None and self._file.failures:
            found.append(f"events could not be recorded: {self._file.failures}; see the log of jitsu-web")
        if journal.damaged:
            found.append(f"events could not be read: {journal.damaged} lines of the queue are damaged")
        return found

    def record(self, draft: Draft) -> None:
        """Record an event, then have it delivered to every target that wants it."""
        wanted = [name for name, route in self.routes.items() if route.sender.wants(draft.kind)]
        if not wanted:
            return
        wall = self._clock.wall()
        id = f"{int(wall * 1000):012x}{secrets.token_hex(8)}"
        notice = Notice(id, wall, draft.kind, draft.key, draft.subject, draft.data)
        lines, evictions = self.journal.record(notice, wanted)
        self._append(lines)
        for each in evictions:
            self._evict(each)
        for name in wanted:
            self._enqueue(name, notice)

    def dead(self) -> list[QueueEntry]:
        """Return the events that some target has not taken."""
        return self.journal.dead()

    def again(self, id: str) -> bool:
        """Send a dead letter once more to every target that has not taken it; returns False if there is none."""
        entry = self.journal.entries.get(id)
        if entry is None or not entry.dead:
            return False
        for name in sorted(entry.dead):
            self._append(self.journal.again(id, name))
            self._enqueue(name, entry.notice, is_again=True)
        return True

    def discard(self, id: str) -> bool:
        """Forget a dead letter; returns False if there is none."""
        line = self.journal.discard(id)
        self._append(line)
        return bool(line)

    # --- tasks ---

    async def _read(self, hub: Hub) -> None:
        async for numbered in hub.read():
            if isinstance(numbered.event, ResetEvent):
                self._begin_again()
            else:
                self.take(numbered.event)

    def take(self, event: WebEvent) -> None:
        """Record what follows from an event."""
        self._watch.handle(event, self._clock.now())
        for observe in self._observers:
            observe(event)
        for draft in drafts(event):
            self.record(draft)

    def _begin_again(self) -> None:
        """Look at all VMs as they are now: more happened at once than the hub keeps."""
        self._missed.inc()
        for vm in self._vms():
            self.take(VmEvent(vm))

    async def _sync(self, file: QueueFile) -> None:
        while True:
            await sleep(self._clock, SYNC_S)
            await asyncio.to_thread(file.sync)

    async def _look(self) -> None:
        while True:
            await sleep(self._clock, LOOK_S)
            self.look()

    def look(self) -> None:
        """Record that VMs have been up for long, and that events were lost."""
        now = self._clock.now()
        for draft in self._watch.tick(now):
            self.record(draft)
        said, at = self._lost_said
        if (lost := self.journal.lost) > said and now - at >= LOST_NOTE_S:
            self._lost_said = lost, now
            log.error("events were dropped", count=lost - said, reason="events.queue is full")
            self.record(Draft("events.lost", "", "events", {"count": lost - said}))

    # --- targets ---

    def _route(self, sender: Sender) -> Route:
        target = Target()
        return Route(sender, Driver(target, self._performer(sender.name), self._clock), target)

    def _performer(self, name: str) -> Callable[[Sequence[TargetAction]], None]:
        def perform(actions: Sequence[TargetAction]) -> None:
            for action in actions:
                match action:
                    case SendLetter():
                        self._world.spawn(self._send(name, action), f"event to {name}")
                    case ForgetLetter(id):
                        self._append(self.journal.done(id, name))
                    case Bury(id, reason):
                        log.warning("event not delivered", target=name, id=id, reason=reason)
                        self._append(self.journal.bury(id, name, reason))

        return perform

    async def _send(self, name: str, letter: SendLetter) -> None:
        route, entry = self.routes[name], self.journal.entries.get(letter.id)
        outcome = Delivered() if entry is None else await route.sender.send(entry.notice)
        is_taken = isinstance(outcome, Delivered)
        self._sent.labels(name, "delivered" if is_taken else "failed").inc()
        if not isinstance(outcome, Delivered) and letter.attempt == 1:
            log.info("event not delivered yet", target=name, id=letter.id, reason=outcome.reason)
        route.driver.handle(SendEnded(letter.key, outcome))

    def _enqueue(self, name: str, notice: Notice, *, is_again: bool = False) -> None:
        passed_s = 0.0 if is_again else max(0.0, self._clock.wall() - notice.ts)
        expires_at = self._clock.now() + self._retry_s - passed_s
        self.routes[name].driver.handle(LetterRecorded(notice.key, Letter(notice.id, expires_at)))

    def _evict(self, eviction: Eviction) -> None:
        self.routes[eviction.target].driver.handle(LetterEvicted(eviction.key, eviction.id))

    def _append(self, lines: bytes) -> None:
        if self._file is not None:
            self._file.append(lines, self.journal.compact)
