"""Turns of TCP connections, over real sockets in one event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_dns.wires import tcp
from jitsu_dns.wires.tcp import MAX_IN_A_TURN, TcpConnection, TcpServer, bind_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.wires

FLOOD = 3000
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


class Served:
    """A server that notes what it hears."""

    def __init__(self, answer: Callable[[bytes], bytes | None], max_connections: int) -> None:
        self.heard: list[bytes] = []
        self.gone: list[object] = []
        self.most_open = 0
        self._answer = answer
        self.failures: list[dict[str, Any]] = []
        self.tcp = TcpServer(
            self._received, self.gone.append, lambda: None, max_connections=max_connections, idle_s=60.0
        )

    def _received(self, message: bytes, _: TcpConnection) -> bytes | None:
        self.heard.append(message)
        self.most_open = max(self.most_open, len(self.tcp.connections))
        return self._answer(message)


@asynccontextmanager
async def served(
    answer: Callable[[bytes], bytes | None] = lambda message: message,
    bound: socket.socket | None = None,
    max_connections: int = 100,
) -> AsyncIterator[tuple[Served, tuple[str, int]]]:
    bound = bound or bind_tcp("127.0.0.1", 0, reuse_port=False)
    address = bound.getsockname()
    made = Served(answer, max_connections)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: made.failures.append(context))
    task = asyncio.create_task(made.tcp.run(bound))
    await asyncio.sleep(0)
    try:
        yield made, address
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def client(address: tuple[str, int], data: bytes) -> socket.socket:
    made = socket.create_connection(address)
    made.setblocking(False)
    loop_sent = made.send(data)
    assert loop_sent == len(data)
    return made


async def answers(of: socket.socket, count: int) -> list[bytes]:
    loop, data = asyncio.get_running_loop(), b""
    found: list[bytes] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            piece = await loop.sock_recv(of, 65536)
            assert piece, "closed"
            data += piece
            while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                length = int.from_bytes(data[:2], "big")
                found.append(data[2 : 2 + length])
                data = data[2 + length :]
    return found


async def test_g9_one_connection_cannot_take_more_than_its_turn() -> None:
    async with served() as (server, address):
        with client(address, b"".join(framed(b"flood %d" % n) for n in range(FLOOD))) as flood:
            in_a_turn: list[int] = []
            await until(lambda: server.heard)
            second: socket.socket | None = None
            while len(server.heard) < FLOOD:
                before = len(server.heard)
                await asyncio.sleep(0)
                in_a_turn.append(len(server.heard) - before)
                if second is None:
                    at = len(server.heard)
                    second = client(address, framed(b"other"))
            assert second is not None
            assert max(in_a_turn) <= MAX_IN_A_TURN
            assert server.heard.index(b"other") - at <= 4 * MAX_IN_A_TURN
            assert await answers(second, 1) == [b"other"]
            assert await answers(flood, FLOOD) == [b"flood %d" % n for n in range(FLOOD)]
            second.close()


async def test_nothing_is_read_while_answers_are_unsent_and_all_is_answered_once_they_are_read() -> None:
    async with served(lambda message: message * 500) as (server, address):
        flood = socket.create_connection(address)
        flood.setblocking(False)
        queries = b"".join(framed(b"%05d" % n) for n in range(20_000))
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(flood, queries))
        seen = -1
        while seen < len(server.heard):
            seen = len(server.heard)
            for _ in range(1000):
                await asyncio.sleep(0)
        assert 0 < seen < 20_000
        found = await answers(flood, 20_000)
        await sending
        assert found == [b"%05d" % n * 500 for n in range(20_000)]
        flood.close()


async def test_connections_that_are_reset_before_they_are_accepted_are_ordinary_ones() -> None:
    bound = bind_tcp("127.0.0.1", 0, reuse_port=False)
    bound.listen(512)
    for _ in range(200):
        with socket.create_connection(bound.getsockname()) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    async with served(bound=bound, max_connections=10) as (server, address):
        with client(address, framed(b"sound")) as sound:
            assert await answers(sound, 1) == [b"sound"]
            await until(lambda: len(server.gone) == 200)
            assert server.failures == []
            assert server.most_open <= 10
            assert len(server.tcp.connections) == 1


class Full(socket.socket):
    """A listening socket that cannot accept, for want of descriptors."""

    is_full = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.is_full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_without_descriptors_the_longest_silent_connection_makes_room_and_accepting_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = Full(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    bound.bind(("127.0.0.1", 0))
    bound.is_full = False
    async with served(bound=bound) as (_, address):
        silent, asks = client(address, framed(b"1")), client(address, framed(b"2"))
        await answers(silent, 1)
        await answers(asks, 1)
        bound.is_full = True
        later: list[tuple[Callable[..., None], Any]] = []
        call_later = asyncio.get_running_loop().call_later

        def later_or_never(delay: float, what: Callable[..., None], *arguments: Any, **keywords: Any) -> object:
            if delay != tcp.ACCEPT_PAUSE_S:
                return call_later(delay, what, *arguments, **keywords)
            later.append((what, arguments))
            return None

        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "call_later", later_or_never)
            third = client(address, framed(b"3"))
            await until(lambda: later)
        with pytest.raises(AssertionError, match="closed"):
            await answers(silent, 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(later) == 1  # nothing is tried while it pauses
        bound.is_full = False
        later[0][0](*later[0][1])
        assert await answers(third, 1) == [b"3"]
        asks.send(framed(b"4"))
        assert await answers(asks, 1) == [b"4"]
        for each in (silent, asks, third):
            each.close()


async def test_messages_come_in_any_pieces_and_of_any_length() -> None:
    messages = [b"", b"a", b"b" * 65535, b"c" * 5000, b"d"]
    async with served(lambda message: b"%d" % len(message)) as (server, address):
        with socket.create_connection(address) as sender:
            sender.setblocking(False)
            loop = asyncio.get_running_loop()
            data = b"".join(map(framed, messages))
            for piece in (data[:1], data[1:4], data[4:7], data[7:]):
                await loop.sock_sendall(sender, piece)
                await asyncio.sleep(0)
            sender.shutdown(socket.SHUT_WR)  # what was asked before that is answered
            assert await answers(sender, 5) == [b"0", b"1", b"65535", b"5000", b"1"]
            assert await loop.sock_recv(sender, 1) == b""
        assert server.heard == messages


def twice(message: bytes) -> bytes | None:
    if message == b"bad":
        raise ValueError(message)
    return message * 2


async def test_a_message_that_the_rules_cannot_bear_closes_its_own_connection_only() -> None:
    async with served(twice) as (server, address):
        with client(address, framed(b"bad") + framed(b"x")) as bad, client(address, framed(b"y")) as good:
            assert await answers(good, 1) == [b"yy"]
            with pytest.raises((AssertionError, ConnectionError)):
                await answers(bad, 1)
            assert [type(each["exception"]) for each in server.failures] == [ValueError]


async def test_long_answers_take_turns_with_queries_and_with_each_other() -> None:
    order: list[bytes] = []

    def pieces(name: bytes) -> Iterator[bytes]:
        for n in range(5):
            order.append(name)
            yield name + b"%d" % n

    async with served(lambda message: None) as (server, address):
        one, two = client(address, framed(b"1")), client(address, framed(b"2"))
        await until(lambda: len(server.heard) == 2)
        for connection, name in zip(list(server.tcp.connections), (b"x", b"y"), strict=True):
            connection.send_all(pieces(name))
        assert await answers(one, 5) == [b"x%d" % n for n in range(5)]
        assert await answers(two, 5) == [b"y%d" % n for n in range(5)]
        assert order == [b"x", b"y"] * 5
        one.close()
        two.close()
