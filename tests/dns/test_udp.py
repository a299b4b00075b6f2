"""The order in which datagrams are looked at."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_dns.wires import datagrams, udp
from jitsu_dns.wires.datagrams import SocketLost
from jitsu_dns.wires.udp import UdpServer, bind_udp

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

SLOW = 3 * udp.MAX_SLOW


async def _answers(questions: list[bytes], limit: float = 5.0) -> tuple[list[bytes], UdpServer]:
    """Send all of them before the server looks, and return what is answered, in that order."""
    bound = bind_udp("127.0.0.1", 0, reuse_port=False)
    turns: list[int] = []
    server = UdpServer(
        bound,
        lambda queries, _: [query if query.startswith(b"w") else None for query in queries],
        lambda query, *_: query,
        lambda: turns.append(1),
    )
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.connect(bound.getsockname())
    for question in questions:
        client.send(question)
    task = asyncio.create_task(server.run())
    heard: list[bytes] = []
    try:
        async with asyncio.timeout(limit):
            while len(heard) + server.queries_dropped < len(questions):
                heard.append(await asyncio.get_running_loop().sock_recv(client, 100))
    finally:
        task.cancel()
        client.close()
    assert turns
    return heard, server


async def test_what_has_a_ready_answer_overtakes_what_has_none() -> None:
    slow = [b"s%d" % n for n in range(SLOW)]
    heard, _ = await _answers([*slow, b"warm"])
    assert heard.index(b"warm") <= udp.MAX_SLOW
    assert [each for each in heard if each != b"warm"] == slow


async def test_more_than_can_be_looked_at_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_LEFT", 5)
    heard, server = await _answers([b"s%d" % n for n in range(SLOW)])
    assert server.queries_dropped > 0
    assert len(heard) + server.queries_dropped == SLOW


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with bind_udp("127.0.0.1", 0, reuse_port=False) as made:
        yield made


async def test_a_query_that_the_rules_cannot_bear_costs_nobody_else_an_answer(bound: socket.socket) -> None:
    """Neither in its batch nor among those that wait for their turn."""

    def received(query: bytes, *_: object) -> bytes:
        if query == b"bad":
            raise ValueError(query)
        return query

    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    server = UdpServer(
        bound, lambda queries, _: [query if query[:1] == b"w" else None for query in queries], received, lambda: None
    )
    sent = [b"w", *[b"s%d" % n for n in range(udp.MAX_SLOW - 2)], b"bad"]  # the turn ends with it
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(bound.getsockname())
        client.setblocking(False)
        serving = asyncio.create_task(server.run())
        for batch in (sent, [*(b"l%d" % n for n in range(udp.MAX_SLOW)), b"x", b"bad", b"y", b"z"]):
            for query in batch:
                client.send(query)
            heard: list[bytes] = []
            async with asyncio.timeout(5):
                while len(heard) < len(batch) - 1:
                    heard.append(await asyncio.get_running_loop().sock_recv(client, 100))
            assert heard == [query for query in batch if query != b"bad"]
        serving.cancel()
    assert [type(each["exception"]) for each in failures] == [ValueError, ValueError]


async def test_a_server_whose_socket_is_gone_ends_with_the_reason(bound: socket.socket) -> None:
    asked = asyncio.Event()
    server = UdpServer(bound, lambda queries, _: [None] * len(queries), lambda *_: None, asked.set)
    serving = asyncio.create_task(server.run())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"q", bound.getsockname())
        await asked.wait()
    os.close(bound.fileno())
    server.send(b"a", ("127.0.0.1", 9, b""))
    async with asyncio.timeout(5):
        with pytest.raises(SocketLost, match="closed behind"):
            await serving
    assert SocketLost.status == 1  # the process may be started again


async def test_reads_that_fail_do_not_keep_the_loop_busy(bound: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self) -> None:
            self.reads = 0

        def recvmmsg(self, *_: object) -> int:
            self.reads += 1
            ctypes.set_errno(errno.ENOMEM)
            return -1

    broken = Broken()
    monkeypatch.setattr(datagrams, "LIBC", broken)
    paused: list[float] = []
    server = UdpServer(bound, lambda queries, _: [None] * len(queries), lambda *_: None, lambda: None)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda delay, _: paused.append(delay))
    serving = asyncio.create_task(server.run())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"q", bound.getsockname())
        for _ in range(20):
            await asyncio.sleep(0)
    assert (broken.reads, paused) == (1, [udp.READ_PAUSE_S])
    serving.cancel()


async def test_what_comes_after_it_has_stopped_reading_stays_in_the_socket() -> None:
    """For the next process that the service manager gives it to."""
    bound = bind_udp("127.0.0.1", 0, reuse_port=False)
    following, address = bound.dup(), bound.getsockname()
    server = UdpServer(bound, lambda queries, _: list(queries), lambda query, *_: query, lambda: None)
    task = asyncio.create_task(server.run())
    loop = asyncio.get_running_loop()
    with following, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(address)
        client.send(b"before")
        assert await loop.sock_recv(client, 100) == b"before"
        server.stop_reading()
        client.send(b"after")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert following.recv(100) == b"after"
