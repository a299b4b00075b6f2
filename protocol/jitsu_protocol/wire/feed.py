"""A feed without sockets: numbered changes, a snapshot to begin with, and nothing missed in between.

The owner (`Publisher`) numbers what it publishes, within an epoch that changes when it restarts, and repeats the last
number in a heartbeat. A subscriber asks the owner's rpc for a snapshot, keeps what is published in the meantime, and
then applies each change with the next number. When it sees a gap or another epoch, it begins again with a snapshot.

    state    event             then           what happens
    syncing  ItemReceived      syncing        it is kept, within bounds
    syncing  SnapshotReceived  live, syncing  Reset, then ApplyItem for what was kept beyond the snapshot's
                                              number; if that has a gap, AskSnapshot
    syncing  SnapshotFailed    syncing        asked again after RESYNC_S
    syncing  Tick              syncing        AskSnapshot, if RESYNC_S has passed since it was asked for
    live     ItemReceived      live, syncing  ApplyItem for the next number, nothing for a number that is known; at a
                                              gap or another epoch AskSnapshot
    live     SnapshotReceived  live, syncing  as while syncing: it was asked for before
    live     SnapshotFailed    live           nothing
    live     Tick              live, syncing  AskSnapshot after SILENT_TICKS without a word: `is_live` says no, and the
                                              last state stands

Silence is counted in ticks of the subscriber, between which it reads its socket. A subscriber that was suspended itself
has let one tick pass, however long that was, and reads what was sent in the meantime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_protocol.messages import FeedItem, Message

HEARTBEAT_S = 0.5
TICK_S = HEARTBEAT_S
SILENT_TICKS = 4
RESYNC_S = 0.25
MAX_KEPT_ITEMS = 10_000


class FeedState(StrEnum):
    """Where a subscription stands."""

    SYNCING = "syncing"
    LIVE = "live"


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
        """Return what stands for the next item if that is too long to be sent: a subscriber sees a gap."""
        self.number += 1
        return self.heartbeat()

    def heartbeat(self) -> FeedItem:
        """Return an item that only says where the feed stands."""
        return FeedItem(epoch=self.epoch, number=self.number)


@dataclass(frozen=True)
class ItemReceived:
    """An item or a heartbeat arrived."""

    item: FeedItem


@dataclass(frozen=True)
class SnapshotReceived:
    """The snapshot arrived that was asked for."""

    epoch: str
    number: int
    snapshot: Any


@dataclass(frozen=True)
class SnapshotFailed:
    """The snapshot could not be had."""


FeedEvent = ItemReceived | SnapshotReceived | SnapshotFailed


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


FeedAction = AskSnapshot | Reset | ApplyItem


@dataclass
class Subscription:
    """The subscriber's machine."""

    state: FeedState = FeedState.SYNCING
    epoch: str = ""
    number: int = 0
    _kept: list[FeedItem] = field(default_factory=list)
    _asked_at: float | None = None
    _ticked_at: float = 0.0
    _silent_ticks: int = 0
    _actions: list[FeedAction] = field(default_factory=list)

    def is_live(self) -> bool:
        """Say whether what is known is what the owner says, as far as can be known."""
        return self.state is FeedState.LIVE

    def is_heard(self) -> bool:
        """Say whether the owner says anything; what is known may be what it said a moment ago."""
        return bool(self.epoch) and self._silent_ticks < SILENT_TICKS

    def handle(self, event: FeedEvent, now: float) -> list[FeedAction]:
        """Handle an event."""
        return self._step(event, now)

    def deadline(self) -> float:
        """Return when to look at the clock."""
        if self.state is FeedState.LIVE:
            return self._ticked_at + TICK_S
        return float("-inf") if self._asked_at is None else self._asked_at + RESYNC_S

    def tick(self, now: float) -> list[FeedAction]:
        """Look at the clock."""
        return [] if now < self.deadline() else self._step(Tick(), now)

    def _step(self, event: FeedEvent | Tick, now: float) -> list[FeedAction]:
        self._actions = []
        step(TRANSITIONS, self, event, now)
        return self._actions

    def _keep(self, event: ItemReceived, _: float) -> None:
        self._silent_ticks = 0
        if event.item.body is not None:
            if len(self._kept) >= MAX_KEPT_ITEMS:
                self._kept.clear()
            self._kept.append(event.item)

    def _apply(self, event: ItemReceived, now: float) -> None:
        item, self._silent_ticks = event.item, 0
        if item.epoch == self.epoch and item.number <= self.number:
            return
        if item.epoch == self.epoch and item.number == self.number + 1 and item.body is not None:
            self.number = item.number
            self._actions.append(ApplyItem(item))
            return
        self._kept = [item] if item.body is not None else []
        self._ask(now)

    def _reset(self, event: SnapshotReceived, now: float) -> None:
        kept, self._kept = self._kept, []
        self.epoch, self.number, self.state = event.epoch, event.number, FeedState.LIVE
        self._asked_at = None
        self._ticked_at, self._silent_ticks = now, 0
        self._actions.append(Reset(event.snapshot))
        for item in kept:
            if item.epoch == event.epoch and item.number > event.number:
                (self._apply if self.is_live() else self._keep)(ItemReceived(item), now)

    def _failed(self, _: SnapshotFailed, now: float) -> None:
        self._asked_at = now

    def _ignore(self, _: SnapshotFailed, __: float) -> None:
        pass

    def _ticked(self, _: Tick, now: float) -> None:
        self._ticked_at = now
        self._silent_ticks += 1
        if self.state is FeedState.SYNCING or self._silent_ticks >= SILENT_TICKS:
            self._ask(now)

    def _ask(self, now: float) -> None:
        self.state = FeedState.SYNCING
        self._asked_at = now
        self._actions.append(AskSnapshot())


_SYNCING, _EITHER = frozenset({FeedState.SYNCING}), frozenset(FeedState)
TRANSITIONS: dict[tuple[FeedState, type], Transition[Subscription]] = {
    (FeedState.SYNCING, ItemReceived): Transition(Subscription._keep, _SYNCING),
    (FeedState.SYNCING, SnapshotReceived): Transition(Subscription._reset, _EITHER),
    (FeedState.SYNCING, SnapshotFailed): Transition(Subscription._failed, _SYNCING),
    (FeedState.SYNCING, Tick): Transition(Subscription._ticked, _SYNCING),
    (FeedState.LIVE, ItemReceived): Transition(Subscription._apply, _EITHER),
    (FeedState.LIVE, SnapshotReceived): Transition(Subscription._reset, _EITHER),
    (FeedState.LIVE, SnapshotFailed): Transition(Subscription._ignore, frozenset({FeedState.LIVE})),
    (FeedState.LIVE, Tick): Transition(Subscription._ticked, _EITHER),
}
