"""A flood of more connections than a process may have descriptors: known peers notice nothing (G9)."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import zmq.asyncio

from jitsu_protocol.messages import Ping, Pong
from jitsu_runtime import descriptors
from jitsu_runtime.bus.zeromq import rpc_client
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.wires

LIMIT = 1024
FLOOD = 1086
SERVICE = f"""
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
import zmq.asyncio
from jitsu_protocol.messages import Done, Ping, Pong
from jitsu_runtime.bus.zeromq import feed_server
from jitsu_runtime.bus.zeromq import rpc_server

async def main():
    context = zmq.asyncio.Context()
    feed = feed_server(context, sys.argv[2], ["t"], dropped=lambda _: None)
    def pong(_):
        feed.publish("t", Done())
        open("/dev/null").close()  # a handler may need a descriptor
        return Pong(service="x", version="0", pid=1, uptime_s=0)
    server = rpc_server(context, sys.argv[1], {{Ping: pong}}, lambda _: None)
    print("ready", flush=True)
    await asyncio.gather(server.run(), feed.run())

asyncio.run(main())
"""


@asynccontextmanager
async def service(rpc: str, feed: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, rpc, feed, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert running.stdout is not None
        assert await running.stdout.readline() == b"ready\n"
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors.raise_limit(2 * FLOOD + 500)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connected(endpoint: str, count: int) -> list[socket.socket]:
    """Return `count` connections that send nothing; the last of them may be refused."""
    made = []
    for _ in range(count):
        if endpoint.startswith("ipc://"):
            made.append(socket.socket(socket.AF_UNIX))
            made[-1].connect(endpoint.removeprefix("ipc://"))
        else:
            host, port = endpoint.removeprefix("tcp://").split(":")
            made.append(socket.create_connection((host, int(port)), timeout=10))
    return made


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_g9_more_connections_than_descriptors_keep_no_known_and_no_new_peer_out(
    transport: str, tmp_path: Path, many_files: None
) -> None:
    rpc, feed = f"ipc://{tmp_path}/x.rpc", f"ipc://{tmp_path}/x.feed"
    if transport == "tcp":
        rpc, feed = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    context = zmq.asyncio.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"t\0")
    subscriber.connect(feed)
    async with service(rpc, feed) as process, asyncio.TaskGroup() as group:
        client = rpc_client(context, rpc, "x")
        running = [group.create_task(client.run())]
        await client.call(Ping(), Pong, 5)
        async with asyncio.timeout(5):
            await subscriber.recv_multipart()
        opened: list[socket.socket] = []
        for endpoint in (rpc, feed):
            flood = asyncio.create_task(asyncio.to_thread(connected, endpoint, FLOOD))
            while not flood.done():
                await client.call(Ping(), Pong, 1)
            opened += await flood
        assert process.returncode is None
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < LIMIT * 3 // 4
        later = rpc_client(context, rpc, "x")
        running.append(group.create_task(later.run()))
        await later.call(Ping(), Pong, 2)  # while the flood is still connected
        while await subscriber.poll(0):
            await subscriber.recv_multipart()
        await client.call(Ping(), Pong, 1)
        async with asyncio.timeout(5):
            await subscriber.recv_multipart()
        for each in opened:
            each.close()
        await later.call(Ping(), Pong, 1)
        assert process.returncode is None
        for task in running:
            task.cancel()
    context.destroy(linger=0)
