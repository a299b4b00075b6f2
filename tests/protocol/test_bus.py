"""rpc and feed over real ZeroMQ sockets, in one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zmq
import zmq.asyncio

from jitsu_protocol import errors, feed
from jitsu_protocol.bus import FeedClient, FeedServer, RpcClient, RpcServer
from jitsu_protocol.codec import decode, encode
from jitsu_protocol.messages import Done, Drain, Draining, FeedItem, Message, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_protocol.bus import Snapshot


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

    server = RpcServer(context, endpoint, {Ping: pong, Drain: refuse})
    client = RpcClient(context, endpoint, "x")
    async with running(server, client):
        assert (await client.call(Ping(), Pong, 5)).service == "x"
        with pytest.raises(errors.Refused, match=r"no \(ask later\)"):
            await client.call(Drain(vm="v"), Draining, 5)


async def test_g9_an_unforeseen_error_becomes_a_typed_one_and_the_server_lives(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    async def fail(_: Drain) -> Message:
        raise ZeroDivisionError("oops")

    client = RpcClient(context, endpoint, "x")
    async with running(RpcServer(context, endpoint, {Ping: pong, Drain: fail}), client):
        with pytest.raises(errors.Bug, match="ZeroDivisionError: oops"):
            await client.call(Drain(vm="v"), Draining, 5)
        assert (await client.call(Ping(), Pong, 5)).pid == 1


async def test_an_unknown_kind_is_a_typed_error(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = RpcClient(context, endpoint, "x")
    async with running(RpcServer(context, endpoint, {Ping: pong}), client):
        with pytest.raises(errors.UnknownKind):
            await client.call(Drain(vm="v"), Draining, 5)


async def test_nobody_there_is_a_timeout_that_says_whom(context: zmq.asyncio.Context, endpoint: str) -> None:
    client = RpcClient(context, endpoint, "vmd")
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

    client = RpcClient(context, endpoint, "x")
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
    client = RpcClient(context, endpoint, "x")
    asked = asyncio.Event()

    async def never(_: Ping) -> Message:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(client):
        first = RpcServer(context, endpoint, {Ping: never})
        call = asyncio.create_task(client.call(Ping(), Pong, 10))
        async with running(first):
            await asked.wait()
        async with running(RpcServer(context, endpoint, {Ping: pong})):
            assert (await call).service == "x"


async def test_a_request_that_is_sent_twice_is_carried_out_once(context: zmq.asyncio.Context, endpoint: str) -> None:
    done = 0
    go = asyncio.Event()

    async def once(_: Ping) -> Message:
        nonlocal done
        done += 1
        await go.wait()
        return pong(Ping())

    client = RpcClient(context, endpoint, "x")
    async with running(RpcServer(context, endpoint, {Ping: once}), client):
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
    client = RpcClient(context, endpoint, "x")
    raw = context.socket(zmq.DEALER)
    raw.connect(endpoint)
    async with running(RpcServer(context, endpoint, {Ping: pong}, lambda reason: dropped.append(reason)), client):
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
    async with running(RpcServer(context, endpoint, {Ping: pong})):
        await raw.send(msgpack.packb([[7, 0], "ping", b"id", 1.0, {}]))
        reply = decode(await raw.recv())
        assert (reply.kind, reply.id, reply.body["code"]) == ("error", b"id", "wrong-version")
    raw.close(linger=0)


async def test_a_second_owner_is_kept_away(context: zmq.asyncio.Context, endpoint: str) -> None:
    server = RpcServer(context, endpoint, {Ping: pong})
    async with running(server):
        with pytest.raises(errors.SetupFault, match="owned by another process"):
            RpcServer(context, endpoint, {Ping: pong})


class Numbers:
    """An owner whose state is a list, and a subscriber that follows it."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self.server = FeedServer(context, endpoint, ["n", "other"])
        self.owned: list[str] = []
        self.seen: list[str] = []
        self.snapshots = 0
        self.client = FeedClient(
            context, endpoint, "n", ask=self.ask, reset=self.reset, apply=lambda item: self.apply(item)
        )

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
