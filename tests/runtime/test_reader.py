"""Reading a ZeroMQ socket from the event loop: nothing is missed, and a fault reaches the task that attends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import zmq
import zmq.asyncio

from jitsu_runtime.bus.reader import MAX_IN_A_ROW, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.wires

Pair = tuple["zmq.Socket[Any]", "zmq.Socket[Any]"]


@pytest.fixture
def pair(context: zmq.asyncio.Context) -> Iterator[Pair]:
    plain: Any = zmq.Socket
    here, there = (context.socket(zmq.PAIR, socket_class=plain) for _ in range(2))
    here.bind("inproc://reader")
    there.connect("inproc://reader")
    yield here, there
    here.close()
    there.close()


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0)


async def test_many_messages_at_once_are_read_in_order_with_all_their_parts(pair: Pair) -> None:
    here, there = pair
    taken: list[list[bytes]] = []
    sent = [[str(number).encode()] * (1 + number % 3) for number in range(5 * MAX_IN_A_ROW)]
    for parts in sent:
        there.send_multipart(parts)
    reading = asyncio.create_task(Reader(here, taken.append).attend())
    await _until(lambda: len(taken) == len(sent))
    reading.cancel()
    assert taken == sent


async def test_a_burst_leaves_others_their_turn(pair: Pair) -> None:
    here, there = pair
    taken: list[list[bytes]] = []
    for _ in range(2 * MAX_IN_A_ROW):
        there.send(b"")
    reading = asyncio.create_task(Reader(here, taken.append).attend())
    await asyncio.sleep(0)
    assert len(taken) == MAX_IN_A_ROW
    await _until(lambda: len(taken) == 2 * MAX_IN_A_ROW)
    reading.cancel()


async def test_a_message_whose_notice_a_send_used_up_is_read_after_a_look(pair: Pair) -> None:
    here, there = pair
    taken: list[list[bytes]] = []
    reader = Reader(here, taken.append)
    reading = asyncio.create_task(reader.attend())
    await asyncio.sleep(0)
    there.send(b"first")
    here.send(b"uses the notice up")
    reader.look()
    await _until(lambda: taken == [[b"first"]])
    reading.cancel()


async def test_what_the_taker_raises_reaches_the_task_that_attends(pair: Pair) -> None:
    here, there = pair

    def refuse(_: list[bytes]) -> None:
        raise ValueError("not this one")

    reading = asyncio.create_task(Reader(here, refuse).attend())
    await asyncio.sleep(0)
    there.send(b"x")
    with pytest.raises(ValueError, match="not this one"):
        async with asyncio.timeout(5):
            await reading


async def test_reading_ends_when_the_taker_closes_the_socket(pair: Pair) -> None:
    here, there = pair
    reading = asyncio.create_task(Reader(here, lambda _: here.close()).attend())
    await asyncio.sleep(0)
    there.send(b"x")
    async with asyncio.timeout(5):
        await reading
