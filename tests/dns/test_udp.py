"""The order in which datagrams are looked at."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from jitsu_dns.wires import udp
from jitsu_dns.wires.udp import UdpServer, bind_udp

if TYPE_CHECKING:
    import pytest

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
