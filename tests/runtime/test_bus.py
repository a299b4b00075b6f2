"""Requests over real ZeroMQ sockets, in one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

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
    Message,
    Ping,
    Pong,
    StopDrained,
)
from jitsu_protocol.model import errors
from jitsu_protocol.wire import under_way
from jitsu_protocol.wire.codec import decode, encode
from jitsu_runtime.bus.zeromq import rpc_client, rpc_server
from tests.support.bus import pong, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/x.rpc"


async def test_a_call_returns_its_reply_or_raises_the_error_of_its_owner(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    def refuse(_: Drain) -> Message:
        raise errors.Refused("no", hint="ask later")

    server = rpc_server(context, endpoint, {Ping: pong, Drain: refuse})
    client = rpc_client(context, endpoint, "x")
    async with running(server, client):
        assert (await client.call(Ping(), Pong, 5)).service == "x"
        with pytest.raises(errors.Refused, match=r"no \(ask later\)"):
            await client.call(Drain(vm="v"), Draining, 5)


async def test_g9_an_unforeseen_error_is_raised_as_a_bug_and_the_owner_goes_on(
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


async def test_a_call_to_an_absent_owner_times_out_and_names_that_owner(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    client = rpc_client(context, endpoint, "vmd")
    async with running(client):
        with pytest.raises(errors.TimedOut, match="is jitsu-vmd running"):
            await client.call(Ping(), Pong, 0.2)


async def test_a_reply_that_arrived_while_its_caller_was_suspended_is_returned(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    owner: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    owner.bind(endpoint)
    asked, may_reply = threading.Event(), threading.Event()

    def answer() -> None:
        peer, frame = owner.recv_multipart()
        asked.set()
        may_reply.wait()
        owner.send_multipart([peer, encode(pong(Ping()), id=decode(frame).id)])

    client = rpc_client(context, endpoint, "x")
    async with running(client):
        call = asyncio.create_task(client.call(Ping(), Pong, 0.3))
        await asyncio.sleep(0)
        answers = threading.Thread(target=answer)
        answers.start()
        while not asked.is_set():
            await asyncio.sleep(0)
        may_reply.set()
        time.sleep(1)  # noqa: ASYNC251  # as if the host swapped or the container was paused
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
async def test_g9_an_owner_goes_on_after_any_frame(
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


async def test_a_request_of_another_major_version_gets_a_typed_error(
    context: zmq.asyncio.Context, endpoint: str
) -> None:
    raw = context.socket(zmq.DEALER)
    raw.connect(endpoint)
    async with running(rpc_server(context, endpoint, {Ping: pong})):
        await raw.send(msgpack.packb([[7, 0], "ping", b"id", 1.0, {}]))
        reply = decode(await raw.recv())
        assert (reply.kind, reply.id, reply.body["code"]) == ("error", b"id", "wrong-version")
    raw.close(linger=0)


async def test_an_endpoint_has_one_owner_at_a_time(context: zmq.asyncio.Context, endpoint: str) -> None:
    server = rpc_server(context, endpoint, {Ping: pong})
    async with running(server):
        with pytest.raises(errors.SetupFault, match="owned by another process"):
            rpc_server(context, endpoint, {Ping: pong})


async def test_g9_a_peer_that_does_not_read_uses_bounded_memory_and_delays_nobody(
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
        # When it reads again, the replies that were kept for it arrive in order.
        numbers = [int(decode(await slow.recv()).id) for _ in range(30)]
        assert numbers == sorted(numbers)
    slow.close(linger=0)


async def test_g9_one_peer_cannot_keep_an_owner_from_the_requests_of_others(
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


async def test_g9_a_request_repeated_over_another_connection_is_counted_there_only(
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
        await raw.send(
            b"x" * 40_000_000
        )  # longer than a message of any kind: the connection is cut, and nothing is kept
        assert (await client.call(Ping(), Pong, 5)).pid == 1
    raw.close(linger=0)
