"""DNS over TCP as a client sees it (RFC 7766)."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path

import dns.message
import pytest

from tests.support.dns import SteadyLoad
from tests.support.suite import RunningSuite, vm_toml

pytestmark = pytest.mark.suite


def framed(name: str) -> bytes:
    wire = dns.message.make_query(name, "A").to_wire()
    return len(wire).to_bytes(2, "big") + wire


async def read_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(5):
        length = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(length))


async def test_pipelined_queries_are_answered_as_their_answers_come(tmp_path: Path) -> None:
    toml = vm_toml("slow", "127.2.10.1", response_delay=0.8) + vm_toml("fast", "127.2.10.2", response_delay=0.1)
    with RunningSuite(tmp_path, toml=toml) as suite:
        reader, writer = await asyncio.open_connection("127.0.0.1", suite.port)
        queries = framed("slow.jitsu.test") + framed("fast.jitsu.test") + framed("nobody.jitsu.test")
        writer.write(queries[:50])  # the second query is cut in two
        await asyncio.sleep(0.05)
        writer.write(queries[50:])
        answers = [await read_answer(reader) for _ in range(3)]
        assert [str(answer.question[0].name) for answer in answers] == [
            "nobody.jitsu.test.",
            "fast.jitsu.test.",
            "slow.jitsu.test.",
        ]
        assert [answer.answer[0][0].to_text() for answer in answers[1:]] == ["127.2.10.2", "127.2.10.1"]
        writer.close()


async def test_who_asks_over_ipv4_is_known_as_such_where_all_addresses_are_bound(tmp_path: Path) -> None:
    toml = '[dns]\nbind = "::"\nsummon_for = ["127.0.0.0/8"]\n' + vm_toml("www", "127.2.12.1", boot_time=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        reader, writer = await asyncio.open_connection("127.0.0.1", suite.port)
        writer.write(framed("www.jitsu.test"))
        assert [str(each) for each in (await read_answer(reader)).answer[0]] == ["127.2.12.1"]
        writer.close()


async def test_a_client_that_goes_away_or_sends_nonsense_hurts_nobody(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.2.11.1", response_delay=0.3)) as suite:
        for rubbish in (framed("www.jitsu.test"), b"\0\0", b"\xff\xff\0", b"\0\5rubbi", b"GET / HTTP/1.1\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", suite.port)
            writer.write(rubbish)
            await writer.drain()
            writer.transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", suite.port)
        writer.write(framed("www.jitsu.test"))
        assert (await read_answer(reader)).answer[0][0].to_text() == "127.2.11.1"
        writer.close()
        assert suite.status()["www"]["starts"] == 1


IDLE_CONNECTIONS = 10_000
MEMORY_MB = 60
"""What 1,000 connections may cost; the others are closed to make room."""


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.alone  # it takes a third of the ports that clients are given
async def test_g9_ten_thousand_connections_that_say_nothing_are_in_nobodys_way(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    toml = vm_toml("www", "127.2.12.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        pid = suite.pid("dns")
        assert pid is not None
        before = resident_mb(pid)
        idle: list[socket.socket] = []
        try:
            async with SteadyLoad("www.jitsu.test", "127.2.12.1", suite.port) as load:
                for number in range(IDLE_CONNECTIONS):
                    idle.append(socket.create_connection(("127.0.0.1", suite.port), timeout=5))
                    if number % 3 == 0:
                        idle[-1].sendall(framed("www.jitsu.test")[:-1])
                    if number % 50 == 0:
                        await asyncio.sleep(0)
                reader, writer = await asyncio.open_connection("127.0.0.1", suite.port)
                writer.write(framed("www.jitsu.test"))
                assert (await read_answer(reader)).answer[0][0].to_text() == "127.2.12.1"
                writer.close()
                assert resident_mb(pid) < before + MEMORY_MB
                answered = load.answered
                while load.answered < answered + 20:
                    await asyncio.sleep(0.01)
                assert load.failures == []
        finally:
            for each in idle:
                each.close()


async def test_g9_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.2.13.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        pid = suite.pid("dns")
        assert pid is not None
        before = resident_mb(pid)
        _, writer = await asyncio.open_connection("127.0.0.1", suite.port, limit=1024)

        async def ask_for_ever() -> None:
            while True:
                writer.write(framed("nobody.jitsu.test") * 1000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_for_ever(), 60)
        writer.transport.abort()
        assert resident_mb(pid) < before + MEMORY_MB
