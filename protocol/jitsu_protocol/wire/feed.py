"""A feed without sockets: numbered changes, a snapshot to begin with, and nothing missed in between.

The owner (`Publisher`) numbers what it publishes, within an epoch that changes when it restarts, and repeats
the last number in a heartbeat. The subscriber's machine:

    state      event                        then
    syncing    item                         keep it (bounded)
    syncing    snapshot                     Reset, Apply what was kept beyond its number; live
    syncing    kept items have a gap        AskSnapshot again
    live       next number                  Apply
    live       number known already         nothing
    live       gap, or another epoch        AskSnapshot; syncing
    any        snapshot asked, none came    AskSnapshot again after RESYNC_S
    live       SILENT_TICKS without a word  AskSnapshot; syncing  (`is_live` says no; the last state stands)

Silence is counted in ticks of the subscriber, between which it reads its socket: one that was held up itself (a host
that swaps, a stopped container) has let one tick pass, however long that was, and reads what was said meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jitsu_protocol.messages import FeedItem, Message

HEARTBEAT_S = 0.5
TICK_S = HEARTBEAT_S
SILENT_TICKS = 4
RESYNC_S = 0.25
MAX_KEPT_ITEMS = 10_000


@dataclass
class Publisher:
    """Numbers the items of one feed."""

    epoch: str
    number: int = 0

    def item(self, body: Message) -> FeedItem:
        """Return the next item."""
        self.number += 1
        return FeedItem(
            epoch=self.epoch,
            number=self.number,
            body_kind=body.kind,
            body=body.model_dump(mode="python"),
        )

    def skip(self) -> FeedItem:
        """Return what stands for the next item if that is too long to be sent: a subscriber sees that it lacks one."""
        self.number += 1
        return self.heartbeat()

    def heartbeat(self) -> FeedItem:
        """Return an item that only says where the feed stands."""
        return FeedItem(epoch=self.epoch, number=self.number)


@dataclass(frozen=True)
class AskSnapshot:
    """Ask the owner's rpc for a snapshot."""


@dataclass(frozen=True)
class Reset:
    """Replace all that is known by the snapshot."""

    snapshot: Any


@dataclass(frozen=True)
class ApplyItem:
    """Apply one change."""

    item: FeedItem


Action = AskSnapshot | Reset | ApplyItem


@dataclass
class Subscription:
    """The subscriber's machine."""

    epoch: str = ""
    number: int = 0
    _live: bool = False
    _kept: list[FeedItem] = field(default_factory=list)
    _asked_at: float | None = None
    _ticked_at: float = 0.0
    _silent_ticks: int = 0

    def is_live(self) -> bool:
        """Say whether what is known is what the owner says, as far as can be known."""
        return self._live

    def is_heard(self) -> bool:
        """Say whether the owner says anything; what is known may be what it said a moment ago."""
        return bool(self.epoch) and self._silent_ticks < SILENT_TICKS

    def received(self, item: FeedItem, now: float) -> list[Action]:
        """Take an item or a heartbeat from the socket."""
        self._silent_ticks = 0
        if not self._live:
            if item.body is not None:
                if len(self._kept) >= MAX_KEPT_ITEMS:
                    self._kept.clear()
                self._kept.append(item)
            return []
        if item.epoch == self.epoch and item.number <= self.number:
            return []
        if item.epoch == self.epoch and item.number == self.number + 1 and item.body is not None:
            self.number = item.number
            return [ApplyItem(item)]
        self._kept = [item] if item.body is not None else []
        return self._ask(now)

    def snapshot(self, epoch: str, number: int, snapshot: Any, now: float) -> list[Action]:
        """Take the snapshot that was asked for."""
        kept, self._kept = self._kept, []
        later = [item for item in kept if item.epoch == epoch and item.number > number]
        self.epoch, self.number = epoch, number
        self._asked_at, self._live = None, True
        self._ticked_at, self._silent_ticks = now, 0
        actions: list[Action] = [Reset(snapshot)]
        for item in later:
            actions += self.received(item, now)
        return actions

    def failed(self, now: float) -> None:
        """Note that the snapshot could not be had; it is asked for again."""
        self._asked_at = now

    def next_deadline(self, now: float) -> float:
        """Return when `passed` wants to be called."""
        if self._live:
            return self._ticked_at + TICK_S
        return now if self._asked_at is None else self._asked_at + RESYNC_S

    def passed(self, now: float) -> list[Action]:
        """Look at the clock."""
        if now < self.next_deadline(now):
            return []
        self._ticked_at = now
        self._silent_ticks += 1
        return [] if self._live and self._silent_ticks < SILENT_TICKS else self._ask(now)

    def _ask(self, now: float) -> list[Action]:
        self._live = False
        self._asked_at = now
        return [AskSnapshot()]
