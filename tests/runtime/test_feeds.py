"""Feeds over real ZeroMQ sockets, in one event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
import zmq.asyncio

from jitsu_protocol.messages import Done, Draining, FeedItem
from jitsu_protocol.wire import feed
from jitsu_runtime.bus import zeromq
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.zeromq import ZmqFollower, feed_server
from tests.support.bus import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jitsu_runtime.bus.links import CountDropped
    from jitsu_runtime.world import Snapshot

pytestmark = pytest.mark.wires


def ignored(reason: str) -> None:
    assert reason == "foreign-topics"


class Numbers:
    """An owner whose state is a list, and a subscriber that follows it."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, dropped: CountDropped = ignored) -> None:
        self.server = feed_server(context, endpoint, ["n", "other"], dropped=dropped)
        self.owned: list[str] = []
        self.seen: list[str] = []
        self.snapshots = 0
        link = ZmqFollower(context, endpoint, "n")
        self.client = FeedClient(link, "n", ask=self.ask, reset=self.reset, apply=lambda item: self.apply(item))

    async def ask(self) -> Snapshot:
        self.snapshots += 1
        publisher = self.server.feeds["n"]
        return publisher.epoch, publisher.number, list(self.owned)

    def reset(self, state: Any) -> None:
        self.seen = list(state)

    def apply(self, item: FeedItem) -> None:
        self.seen.append(str((item.body or {})["drain"]))

    def add(self, text: str) -> None:
        self.owned.append(text)
        self.server.publish("n", Draining(drain=text))
        self.server.publish("other", Done())


async def test_a_follower_gets_every_item_in_order(context: zmq.asyncio.Context, tmp_path: Path) -> None:
    numbers = Numbers(context, f"ipc://{tmp_path}/x.feed")
    numbers.add("before")
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        for number in range(500):
            numbers.add(str(number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.01)
        assert numbers.client.is_live()


async def test_an_item_that_arrives_together_with_a_tick_is_not_lost(
    context: zmq.asyncio.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "TICK_S", 0.001)
    monkeypatch.setattr(feed, "SILENT_TICKS", 1_000_000)
    numbers = Numbers(context, f"ipc://{tmp_path}/x.feed")
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        while numbers.seen != numbers.owned or not numbers.seen:
            numbers.add("until it is subscribed")
            await asyncio.sleep(0.05)
        numbers.snapshots = 0
        for number in range(1000):
            numbers.add(str(number))
            time.sleep(0.001)  # noqa: ASYNC251 a busy loop finds the item and the tick at the same time
            await asyncio.sleep(0)
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.01)
        assert numbers.snapshots == 0, "no snapshot was needed"


def memory_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000


HOSTILE = """
import sys, time, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
for number in range(int(sys.argv[2])):
    socket.setsockopt(zmq.SUBSCRIBE, b"%d" % number + b"x" * int(sys.argv[3]))
print("done", flush=True)
time.sleep(60)
"""


@asynccontextmanager
async def subscribing(endpoint: str, count: int, length: int) -> AsyncIterator[None]:
    """Run a process that subscribes to many topics, or to long ones."""
    arguments = (sys.executable, "-c", HOSTILE, endpoint, str(count), str(length))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def test_g9_subscriptions_to_unknown_topics_use_no_memory_and_the_feed_goes_on(
    context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    dropped: list[str] = []
    endpoint = f"ipc://{tmp_path}/x.feed"
    numbers = Numbers(context, endpoint, lambda reason: dropped.append(reason))
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        before = memory_mb()
        async with subscribing(endpoint, 1, 4_000_000):
            for _ in range(20):
                numbers.add("while it comes")
                await asyncio.sleep(0.02)
        assert memory_mb() - before < 40, "ZeroMQ needs 50 bytes for each byte of a subscription"
        async with subscribing(endpoint, 200, 3):
            while not dropped:
                numbers.add("while they come")
                await asyncio.sleep(0.02)
        numbers.add("after")
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.02)
    assert set(dropped) == {"foreign-topics"}


async def disconnected(socket: zmq.asyncio.Socket) -> None:
    """Wait until a socket that follows a feed has lost its connection; it connects again by itself."""
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    await monitor.recv_multipart()
    socket.disable_monitor()


async def test_g9_only_the_peer_that_subscribes_to_many_unknown_topics_is_cut(
    context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    dropped: list[str] = []
    endpoint = f"ipc://{tmp_path}/x.feed"
    numbers = Numbers(context, endpoint, lambda reason: dropped.append(reason))
    honest = context.socket(zmq.SUB)
    honest.connect(endpoint)
    honest.subscribe(b"of-a-later-version\0")
    is_cut = asyncio.create_task(disconnected(honest))
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        for again in range(5):
            hostile = context.socket(zmq.SUB)
            hostile.connect(endpoint)
            cut = asyncio.create_task(disconnected(hostile))
            for number in range(40):
                hostile.subscribe(b"%d" % number)
            async with asyncio.timeout(5):
                await cut
            hostile.close(linger=0)
            assert len(dropped) > again
        numbers.add("after")
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.01)
        assert not is_cut.done()
        assert numbers.client.is_live()
    is_cut.cancel()
    honest.close(linger=0)


async def test_g9_the_peer_with_the_most_unknown_topics_is_cut_when_all_have_too_many(
    context: zmq.asyncio.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq, "MAX_FOREIGN_IN_ALL", 40)
    endpoint = f"ipc://{tmp_path}/x.feed"
    numbers = Numbers(context, endpoint)
    peers = [context.socket(zmq.SUB) for _ in range(3)]
    cut = [asyncio.create_task(disconnected(peer)) for peer in peers]
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        for peer, count in zip(peers, (1, 30, 10), strict=True):
            peer.connect(endpoint)
            for number in range(count):
                peer.subscribe(b"%d of %d" % (number, count))
        async with asyncio.timeout(5):
            await asyncio.wait(cut, return_when=asyncio.FIRST_COMPLETED)
        assert [task.done() for task in cut] == [False, True, False]
    for task, peer in zip(cut, peers, strict=True):
        task.cancel()
        peer.close(linger=0)


async def test_an_item_that_is_too_large_for_a_feed_comes_with_the_snapshot(
    context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    numbers = Numbers(context, f"ipc://{tmp_path}/x.feed")
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        for text in ("small", "x" * 1_000_000, "small again"):
            numbers.add(text)
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.01)
        assert numbers.snapshots >= 2


async def test_g9_a_subscription_that_another_peer_has_too_is_counted_for_both(
    context: zmq.asyncio.Context, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/x.feed"
    numbers = Numbers(context, endpoint)
    first, second = context.socket(zmq.SUB), context.socket(zmq.SUB)
    async with running(numbers.server, numbers.client):
        await numbers.client.synced.wait()
        first.connect(endpoint)
        for number in range(30):
            first.subscribe(b"%d" % number)
        await asyncio.sleep(0.1)
        second.connect(endpoint)
        cut = asyncio.create_task(disconnected(second))
        for number in range(40):
            second.subscribe(b"%d" % number)
        async with asyncio.timeout(5):
            await cut
        is_cut = asyncio.create_task(disconnected(first))
        await asyncio.sleep(0.1)
        assert not is_cut.done(), "the other peer has few topics"
        is_cut.cancel()
    for peer in (first, second):
        peer.close(linger=0)
