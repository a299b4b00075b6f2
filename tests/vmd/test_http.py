"""Servers of a hypervisor that are slow, or that answer with more than they should."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from jitsu_protocol.model.errors import TimedOut, Unavailable
from jitsu_vmd.hypervisors.shared.http import MAX_SERVERS, HttpServers
from jitsu_vmd.hypervisors.shared.rules.texts import MAX_CHARACTERS, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.wires

LIMIT_S, MOST = 5.0, 1 << 20


@asynccontextmanager
async def asked(directory: Path, answer: Any) -> AsyncIterator[HttpServers]:
    """Serve one answer on a unix socket, and yield who asks there."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(directory / "socket")).start()
    servers = HttpServers(socket=str(directory / "socket"))
    servers.open("lxd", None, most_at_once=4)
    try:
        yield servers
    finally:
        await servers.close()
        await runner.cleanup()


async def test_no_more_of_an_answer_is_read_than_there_may_be(tmp_path: Path) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 64 * MOST:
            await response.write(b"x" * 65_536)
            sent += 65_536
        return response

    async with asked(tmp_path, endless) as servers:
        with pytest.raises(Unavailable, match="the answer has more than 1 MiB"):
            await servers.request("GET", "/", LIMIT_S, MOST)
    assert sent < 16 * MOST


async def test_a_small_answer_does_not_become_a_large_one(tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * (64 * MOST))

    async def bomb(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with asked(tmp_path, bomb) as servers:
        assert (await servers.request("GET", "/", LIMIT_S, MOST)).data == packed


async def test_a_redirection_is_not_followed(tmp_path: Path) -> None:
    paths = []

    async def elsewhere(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPTemporaryRedirect("http://169.254.169.254/secrets")

    async with asked(tmp_path, elsewhere) as servers:
        assert (await servers.request("GET", "/here", LIMIT_S, MOST)).status == 307
        lines = [line async for line in servers.lines("/events", LIMIT_S, MOST)]
    assert (paths, lines) == (["/here", "/events"], [])


async def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(tmp_path: Path) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async with asked(tmp_path, slow) as servers:
        with pytest.raises(TimedOut, match=r"has not answered within 0.2 s"):
            await servers.request("GET", "/", 0.2, MOST)


async def test_who_is_not_connected_says_so() -> None:
    servers = HttpServers(["https://h1:8443"])
    with pytest.raises(Unavailable, match="https://h1:8443 is not connected"):
        await servers.request("GET", "/", LIMIT_S, MOST)
    assert [line async for line in servers.lines("/", LIMIT_S, MOST)] == []


def test_a_server_that_does_not_answer_is_asked_last() -> None:
    servers = HttpServers(["https://h1", "https://h2", "https://h3"])
    servers.another("https://h1")
    assert servers.where == "https://h2"
    servers.another("https://h1")
    assert servers.where == "https://h2", "it is another one's failure"


def test_a_cluster_that_names_new_members_each_time_fills_no_memory() -> None:
    servers = HttpServers(["https://h1", "https://h2"])
    for n in range(100):
        servers.know(f"https://made-up-{n}-{m}" for m in range(MAX_SERVERS))
    seen = set()
    for _ in range(10 * MAX_SERVERS):
        seen.add(servers.where)
        servers.another(servers.where)
    assert len(seen) == MAX_SERVERS
    assert {"https://h1", "https://h2"} <= seen, "those that are configured stay"


def test_a_text_of_a_server_is_shown_on_one_line() -> None:
    assert one_line("a\x1b[2Jb\r\nc") == "a?[2Jb c"
    assert len(one_line("x" * 100_000)) == MAX_CHARACTERS
    assert one_line(None) == ""
