from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_protocol.messages import Done
from jitsu_protocol.wire.feed import (
    RESYNC_S,
    SILENT_TICKS,
    TICK_S,
    ApplyItem,
    AskSnapshot,
    FeedAction,
    ItemReceived,
    Publisher,
    Reset,
    SnapshotFailed,
    SnapshotReceived,
    Subscription,
)
from tests.support.examples import examples


class Owner:
    """An owner whose state is the list of the numbers that it published."""

    def __init__(self, epoch: str) -> None:
        self.feed = Publisher(epoch)
        self.state: list[int] = []


class Reader:
    """A subscriber that keeps what is published."""

    def __init__(self) -> None:
        self.machine = Subscription()
        self.state: list[int] = []
        self.wants_snapshot = False

    def perform(self, actions: list[FeedAction]) -> None:
        for action in actions:
            match action:
                case AskSnapshot():
                    self.wants_snapshot = True
                case Reset(snapshot):
                    self.state = list(snapshot)
                case ApplyItem(item):
                    self.state.append(item.number)


def test_a_subscriber_applies_the_snapshot_and_then_items_in_order() -> None:
    owner, reader = Owner("e"), Reader()
    reader.perform(reader.machine.tick(0.0))
    assert reader.wants_snapshot
    kept = [owner.feed.item(Done()), owner.feed.item(Done())]
    for item in kept:
        reader.perform(reader.machine.handle(ItemReceived(item), 0.0))
    reader.perform(reader.machine.handle(SnapshotReceived("e", 1, [1]), 0.0))
    assert reader.state == [1, 2]
    assert reader.machine.is_live()


def test_a_gap_another_epoch_or_a_heartbeat_ahead_leads_to_a_snapshot() -> None:
    for telling in (
        Publisher("e", 5).item(Done()),
        Publisher("other", 0).item(Done()),
        Publisher("e", 4).heartbeat(),
        Publisher("other", 3).heartbeat(),
    ):
        machine = Subscription()
        machine.tick(0.0)
        machine.handle(SnapshotReceived("e", 3, None), 0.0)
        assert machine.handle(ItemReceived(Publisher("e", 3).heartbeat()), 0.0) == []
        assert machine.handle(ItemReceived(telling), 0.1) == [AskSnapshot()]
        assert not machine.is_live()
        assert machine.is_heard()


def test_an_item_that_is_known_already_changes_nothing() -> None:
    machine = Subscription()
    machine.tick(0.0)
    machine.handle(SnapshotReceived("e", 3, None), 0.0)
    assert machine.handle(ItemReceived(Publisher("e", 2).item(Done())), 0.0) == []
    assert machine.is_live()


def test_a_silent_owner_makes_the_state_stale_and_is_asked_again() -> None:
    machine = Subscription()
    machine.tick(0.0)
    machine.handle(SnapshotReceived("e", 3, None), 0.0)
    stale = SILENT_TICKS * TICK_S
    for tick in range(1, SILENT_TICKS):
        assert machine.deadline() == tick * TICK_S
        assert machine.tick(tick * TICK_S) == []
        assert machine.is_live()
    assert machine.is_heard()
    assert machine.tick(stale) == [AskSnapshot()]
    assert not machine.is_live()
    assert not machine.is_heard()
    assert machine.tick(stale + RESYNC_S / 2) == []
    machine.handle(SnapshotFailed(), stale + RESYNC_S)
    assert machine.tick(stale + 2 * RESYNC_S) == [AskSnapshot()]
    assert not machine.is_heard()
    machine.handle(ItemReceived(Publisher("e", 3).heartbeat()), stale + 2 * RESYNC_S)
    assert machine.is_heard()


def test_an_owner_counts_as_heard_after_the_first_snapshot_only() -> None:
    machine = Subscription()
    machine.handle(ItemReceived(Publisher("e", 3).heartbeat()), 0.0)
    assert not machine.is_heard()


def test_an_owner_that_is_heard_from_time_to_time_is_live() -> None:
    machine, now = Subscription(), 0.0
    machine.tick(now)
    machine.handle(SnapshotReceived("e", 3, None), now)
    while now < 60.0:
        for _ in range(SILENT_TICKS - 1):
            now += TICK_S
            assert machine.tick(now) == []
        machine.handle(ItemReceived(Publisher("e", 3).heartbeat()), now)


def test_a_subscriber_that_was_suspended_reads_before_it_judges_its_owner_silent() -> None:
    machine = Subscription()
    machine.tick(0.0)
    machine.handle(SnapshotReceived("e", 3, None), 0.0)
    assert machine.tick(60.0) == []
    assert machine.is_live()
    machine.handle(ItemReceived(Publisher("e", 3).heartbeat()), 60.001)
    assert machine.tick(60.0 + TICK_S) == []
    assert machine.is_live()


@settings(max_examples=examples(300))
@given(st.integers(0, 2**32), st.floats(0, 0.6))
def test_a_subscriber_ends_with_the_state_of_its_owner_whatever_was_lost(seed: int, loss: float) -> None:
    chance = random.Random(seed)
    owner, reader, now, epoch = Owner("0"), Reader(), 0.0, 0
    for _ in range(60):
        now += 0.1
        step = chance.random()
        if step < 0.05:
            epoch += 1
            owner = Owner(str(epoch))  # the owner restarts
        elif step < 0.6:
            owner.state.append(owner.feed.number + 1)
            item = owner.feed.item(Done())
            if chance.random() >= loss:
                reader.perform(reader.machine.handle(ItemReceived(item), now))
        _maybe_snapshot(owner, reader, now, chance.random() >= loss)
    for _ in range(3):
        now += RESYNC_S
        reader.perform(reader.machine.handle(ItemReceived(owner.feed.heartbeat()), now))
        _maybe_snapshot(owner, reader, now, True)
    assert reader.state == owner.state


def _maybe_snapshot(owner: Owner, reader: Reader, now: float, arrives: bool) -> None:
    reader.perform(reader.machine.tick(now))
    if reader.wants_snapshot and arrives:
        reader.wants_snapshot = False
        feed = owner.feed
        reader.perform(reader.machine.handle(SnapshotReceived(feed.epoch, feed.number, list(owner.state)), now))
