"""rpc and feed over real ZeroMQ sockets, in one event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zmq
import zmq.asyncio

from jitsu_protocol.messages import (
    Applied,
    Apply,
    Change,
    Done,
    Drain,
    Draining,
    FeedItem,
    Message,
    Ping,
    Pong,
    StopDrained,
)
from jitsu_protocol.model import errors
from jitsu_protocol.wire import feed, under_way
from jitsu_protocol.wire.codec import decode, encode
from jitsu_runtime.bus import rpc_server as owner
from jitsu_runtime.bus import zeromq
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.links import Incoming, Sent
from jitsu_runtime.bus.zeromq import ZmqFollower, feed_server, rpc_client, rpc_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jitsu_runtime.bus.links import CountDropped
    from jitsu_runtime.world import Snapshot

pytestmark = pytest.mark.wires


@pytest.fixture
async def context() -> AsyncIterator[zmq.asyncio.Context]:
    made = zmq.asyncio.Context()
    yield made
    made.destroy(linger=0)


@asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in work]
    await asyncio.sleep(0)  # a task that is cancelled before it began closes nothing
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def pong(_: Ping) -> Pong:
    return Pong(service="x", version="0", pid=1, uptime_s=0.0)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/x.rpc"


async def test_a_call_gets_its_reply_and_errors_come_as_they_were(context: zmq.asyncio.Context, endpoint: str) -> None:
    def refuse(_: Drain) -> Message:
        raise errors.Refused("no", hint="ask later")

    server = rpc_server(context, endpoint, {Ping: pong, Drain: refuse})
    client = rpc_client(context, endpoint, "x")
    async with running(server, client):
        assert (await client.call(Ping(), Pong, 5)).service == "x"
        with pytest.raises(errors.Refused, match=r"no \(ask later\)"):
            await client.call(Drain(vm="v"), Draining, 5)


async def test_g9_an_unforeseen_error_becomes_a_typed_one_and_the_server_lives(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    async def fail(_: Drain) -> Message:
        raise ZeroDivisionError("oops")

    client = rpc_client(context, endpoint, "x")
    async with running(rpc_server(context, endpoint, {Ping: pong, Drain: fail}), client):
        with pytest.raises(errors.Bug, match="ZeroDivisionError: oops"):
            await client.call(Drain(vm="v"), Draining, 5)
        assert (await client.call(Ping(), Pong, 5)).pid == 1


async def test_an_unknown_kind_is_a_typed_error(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = rpc_client(context, endpoint, "x")
    async with running(rpc_server(context, endpoint, {Ping: pong}), client):
        with pytest.raises(errors.UnknownKind):
            await client.call(Drain(vm="v"), Draining, 5)


async def test_nobody_there_is_a_timeout_that_says_whom(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = rpc_client(context, endpoint, "vmd")
    async with running(client):
        with pytest.raises(errors.TimedOut, match="is jitsu-vmd running"):
            await client.call(Ping(), Pong, 0.2)


async def test_a_reply_that_came_while_the_caller_was_held_up_is_a_reply(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    owner: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    owner.bind(endpoint)
    asked, held_up = threading.Event(), threading.Event()

    def answer() -> None:
        peer, frame = owner.recv_multipart()
        asked.set()
        held_up.wait()
        owner.send_multipart([peer, encode(pong(Ping()), id=decode(frame).id)])

    client = rpc_client(context, endpoint, "x")
    async with running(client):
        call = asyncio.create_task(client.call(Ping(), Pong, 0.3))
        await asyncio.sleep(0)
        answers = threading.Thread(target=answer)
        answers.start()
        while not asked.is_set():
            await asyncio.sleep(0)
        held_up.set()
        time.sleep(1)  # noqa: ASYNC251  # the host swaps, the container is paused
        assert (await call).service == "x"
    answers.join()
    owner.close()


async def test_a_call_survives_an_owner_that_restarts(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = rpc_client(context, endpoint, "x")
    asked = asyncio.Event()

    async def never(_: Ping) -> Message:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(client):
        first = rpc_server(context, endpoint, {Ping: never})
        call = asyncio.create_task(client.call(Ping(), Pong, 10))
        async with running(first):
            await asked.wait()
        async with running(rpc_server(context, endpoint, {Ping: pong})):
            assert (await call).service == "x"


async def test_a_request_that_is_sent_twice_is_carried_out_once(context: zmq.asyncio.Context, endpoint: str) -> None:
    done = 0
    go = asyncio.Event()

    async def once(_: Ping) -> Message:
        nonlocal done
        done += 1
        await go.wait()
        return pong(Ping())

    client = rpc_client(context, endpoint, "x")
    async with running(rpc_server(context, endpoint, {Ping: once}), client):
        call = asyncio.create_task(client.call(Ping(), Pong, 10))
        await asyncio.sleep(0.8)  # several resends
        go.set()
        await call
        assert done == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"junk"],
        [b"a", b"b", b"c"],
        [msgpack.packb([[1, 0], "ping", b"", 1.0, {}])],
        [msgpack.packb([[1, 0], "ping", b"id"])],
        [msgpack.packb([[1, 0], 5, b"id", 1.0, {}])],
    ],
)
async def test_g9_whatever_is_sent_the_server_goes_on(
    context: zmq.asyncio.Context, endpoint: str, frames: list[bytes]
) -> None:
    dropped: list[str] = []
    client = rpc_client(context, endpoint, "x")
    raw = context.socket(zmq.DEALER)
    raw.connect(endpoint)
    async with running(rpc_server(context, endpoint, {Ping: pong}, lambda reason: dropped.append(reason)), client):
        await raw.send_multipart(frames)
        assert (await client.call(Ping(), Pong, 5)).pid == 1
        while not dropped:
            await asyncio.sleep(0.01)
    raw.close(linger=0)


async def test_a_message_of_another_version_is_answered_with_a_typed_error(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    raw = context.socket(zmq.DEALER)
    raw.connect(endpoint)
    async with running(rpc_server(context, endpoint, {Ping: pong})):
        await raw.send(msgpack.packb([[7, 0], "ping", b"id", 1.0, {}]))
        reply = decode(await raw.recv())
        assert (reply.kind, reply.id, reply.body["code"]) == ("error", b"id", "wrong-version")
    raw.close(linger=0)


async def test_a_second_owner_is_kept_away(context: zmq.asyncio.Context, endpoint: str) -> None:
    server = rpc_server(context, endpoint, {Ping: pong})
    async with running(server):
        with pytest.raises(errors.SetupFault, match="owned by another process"):
            rpc_server(context, endpoint, {Ping: pong})


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


async def test_a_feed_brings_everything_in_order(context: zmq.asyncio.Context, tmp_path: Path) -> None:
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


async def test_an_item_that_comes_when_the_clock_is_looked_at_is_not_lost(
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
            time.sleep(0.001)  # noqa: ASYNC251 a loop that is busy finds the item and the tick at once
            await asyncio.sleep(0)
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.01)
        assert numbers.snapshots == 0, "nothing had to be asked for again"


async def test_g9_a_peer_that_reads_nothing_costs_a_bounded_amount_and_delays_nobody(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    dropped: list[str] = []

    def long(_: Drain) -> Draining:
        return Draining(drain="x" * 1_000_000)

    server = rpc_server(context, endpoint, {Ping: pong, Drain: long}, lambda reason: dropped.append(reason))
    client = rpc_client(context, endpoint, "x")
    slow = context.socket(zmq.DEALER)
    slow.setsockopt(zmq.RCVHWM, 1)
    slow.connect(endpoint)
    async with running(server, client):
        for number in range(200):
            await slow.send(encode(Drain(vm="v"), id=b"%d" % number, timeout=60.0))
        while len(dropped) < 100:
            await asyncio.sleep(0.01)
            assert (await client.call(Ping(), Pong, 5)).pid == 1
        assert set(dropped) == {"slow-reader"}
        assert server.waiting_bytes <= 17_000_000
        # It reads again: what has been kept for it comes in order.
        numbers = [int(decode(await slow.recv()).id) for _ in range(30)]
        assert numbers == sorted(numbers)
    slow.close(linger=0)


async def test_g9_one_peer_leaves_room_for_the_requests_of_others(
    context: zmq.asyncio.Context, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_way, "MAX_REQUESTS_OF_PEER", 5)
    go = asyncio.Event()

    async def later(_: Drain) -> Message:
        await go.wait()
        return Draining(drain="d")

    greedy, other = rpc_client(context, endpoint, "x"), rpc_client(context, endpoint, "x")
    async with running(rpc_server(context, endpoint, {Ping: pong, Drain: later}), greedy, other):
        calls = [asyncio.create_task(greedy.call(Drain(vm="v"), Draining, 10)) for _ in range(8)]
        done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), errors.Unavailable)
        one = asyncio.create_task(other.call(Drain(vm="v"), Draining, 10))
        await other.call(Ping(), Pong, 5)
        go.set()
        assert (await one).drain == "d"
        await asyncio.gather(*calls, return_exceptions=True)


async def test_others_are_answered_while_a_large_request_is_read(context: zmq.asyncio.Context, endpoint: str) -> None:
    finished: list[str] = []

    def count(request: Apply) -> Message:
        return Applied(commit="", changed=len(request.changes))

    large = Apply(
        changes=[Change(path=f"a/{n}", value="1") for n in range(50_000)], author="a", message="m", request="r"
    )
    client = rpc_client(context, endpoint, "x")
    async with running(rpc_server(context, endpoint, {Ping: pong, Apply: count}), client):

        async def applied() -> None:
            assert (await client.call(large, Applied, 60)).changed == 50_000
            finished.append("large")

        async def pinged() -> None:
            await client.call(Ping(), Pong, 60)
            finished.append("ping")

        await asyncio.gather(applied(), *(pinged() for _ in range(5)))
        assert finished[-1] == "large"


class Burst:
    """A link over which the same requests come twice, each time all at once."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames
        self.kinds: list[str] = []

    def send(self, _: bytes, frame: bytes) -> Sent:
        self.kinds.append(decode(frame).kind)
        return Sent.SENT

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        for again in range(1, 3):
            for frame in self._frames:
                take(Incoming(b"peer", memoryview(frame.replace(b"again", b"%5d" % again))))
            while len(self.kinds) < len(self._frames) * again:
                await asyncio.sleep(0)

    def close(self) -> None:
        pass


async def test_g9_large_requests_that_come_at_once_are_counted_before_the_first_of_them_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, "AT_ONCE_BYTES", 100)
    monkeypatch.setattr(owner, "MAX_READING_BYTES", 5000)
    request = Apply(changes=[], author="a", message="m" * 2000, request="r")
    link = Burst([encode(request, id=b"again %d" % number, timeout=5.0) for number in range(5)])
    server = owner.RpcServer(link, {Apply: lambda _: Applied(commit="", changed=0)}, lambda _: None)
    async with running(server):
        while len(link.kinds) < 10:
            await asyncio.sleep(0)
    of_2_kb_each_two_are_within_5_kb = ["error"] * 3 + ["store.applied"] * 2
    assert link.kinds == of_2_kb_each_two_are_within_5_kb * 2


async def test_g9_a_request_that_comes_again_over_another_connection_leaves_nothing_behind_of_the_first(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    go = asyncio.Event()

    async def later(_: Drain) -> Message:
        await go.wait()
        return Draining(drain="d")

    server = rpc_server(context, endpoint, {Ping: pong, Drain: later})
    async with running(server):
        for number in range(3):
            raw = context.socket(zmq.DEALER)
            raw.connect(endpoint)
            await raw.send(encode(Drain(vm="v"), id=b"one", timeout=60.0))
            await raw.send(encode(Ping(), id=b"ping %d" % number, timeout=60.0))
            await raw.recv()
            if number < 2:
                raw.close(linger=0)
        assert server.peers_served == 1
        go.set()
        assert decode(await raw.recv()).kind == "vmd.draining"
        assert server.peers_served == 0
    raw.close(linger=0)


async def test_a_request_that_is_too_long_is_refused_at_both_ends(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = rpc_client(context, endpoint, "x")
    raw = context.socket(zmq.DEALER)
    raw.connect(endpoint)
    async with running(rpc_server(context, endpoint, {Ping: pong, StopDrained: pong, Apply: pong}), client):
        with pytest.raises(errors.BadRequest, match="65536 are allowed"):
            await client.call(StopDrained(vm="v", drain="x" * 100_000), Done, 5)
        await raw.send(encode(StopDrained(vm="v", drain="x" * 100_000), id=b"id", timeout=5.0))
        reply = decode(await raw.recv())
        assert (reply.id, reply.body["code"]) == (b"id", "malformed")
        await raw.send(b"x" * 40_000_000)  # longer than any kind: the connection is cut, and nothing is kept
        assert (await client.call(Ping(), Pong, 5)).pid == 1
    raw.close(linger=0)


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
    """Run a process that subscribes to many topics, or long ones."""
    arguments = (sys.executable, "-c", HOSTILE, endpoint, str(count), str(length))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def test_g9_subscriptions_that_nobody_asked_for_take_no_memory_and_the_feed_goes_on(
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
        assert memory_mb() - before < 40, "each byte of a subscription would take 50"
        async with subscribing(endpoint, 200, 3):
            while not dropped:
                numbers.add("while they come")
                await asyncio.sleep(0.02)
        numbers.add("after")
        while numbers.seen != numbers.owned:
            await asyncio.sleep(0.02)
    assert set(dropped) == {"foreign-topics"}


async def disconnected(socket: zmq.asyncio.Socket) -> None:
    """Return when a socket that follows a feed has lost its connection; it connects again by itself."""
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    await monitor.recv_multipart()
    socket.disable_monitor()


async def test_g9_only_the_peer_that_subscribes_to_many_foreign_topics_is_cut_however_often_it_does(
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


async def test_g9_of_many_peers_with_foreign_topics_the_one_with_the_most_is_cut(
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


async def test_g9_a_peer_that_subscribes_to_what_another_has_already_is_counted_too(
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
        assert not is_cut.done(), "the other one has few"
        is_cut.cancel()
    for peer in (first, second):
        peer.close(linger=0)
