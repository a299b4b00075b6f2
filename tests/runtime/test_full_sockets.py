"""A busy process whose sockets are full, when a peer dies (G7, G9)."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import pytest
import zmq
import zmq.asyncio

from jitsu_protocol.messages import Ping, Pong
from jitsu_protocol.wire.codec import encode
from jitsu_runtime.bus.sockets import HEARTBEAT_MS
from jitsu_runtime.bus.zeromq import rpc_client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires

BUSY_S = HEARTBEAT_MS / 1000 + 0.4
MANY = 20_000
"""More messages than a ROUTER accepts before it is read."""
OWNER = """
import asyncio, sys, time, zmq.asyncio
from jitsu_protocol.messages import Apply, Ping, Pong
from jitsu_runtime.bus.zeromq import rpc_server

def pong(_):
    global left
    left -= 1
    if left == 0:
        print("busy", flush=True)
        time.sleep(float(sys.argv[2]))
    return Pong(service="x", version="1", pid=1, uptime_s=0.0)

left = int(sys.argv[3])
asyncio.run(rpc_server(zmq.asyncio.Context(), sys.argv[1], {Ping: pong, Apply: pong}).run())
"""


async def owner_that_is_busy(endpoint: str, busy_s: float, request: int = 1) -> asyncio.subprocess.Process:
    """Start an owner that prints "busy" at that request, and then reads nothing for so many seconds."""
    argv = (sys.executable, "-c", OWNER, endpoint, str(busy_s), str(request))
    return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)


@pytest.mark.suite
async def test_g7_an_owner_survives_a_peer_that_fills_its_socket_and_dies(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/x.rpc"
    owner = await owner_that_is_busy(endpoint, BUSY_S)
    assert owner.stdout is not None
    peer = zmq.Context()
    dealer = peer.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, 0)
    dealer.connect(endpoint)
    for number in range(MANY):
        dealer.send(encode(Ping(), id=b"%d" % number, timeout=5.0))
    assert await owner.stdout.readline() == b"busy\n"
    begun = time.monotonic()
    while time.monotonic() < begun + 0.1:  # until libzmq has stopped reading
        await asyncio.sleep(0.02)
    peer.destroy(linger=0)
    client = rpc_client(zmq.asyncio.Context.instance(), endpoint, "x")
    running = asyncio.create_task(client.run())
    try:
        assert (await client.call(Ping(), Pong, 10)).pid == 1
        assert owner.returncode is None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if owner.returncode is None:
            owner.kill()
        await owner.wait()


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a short frame of ZMTP 3.1 (rfc.zeromq.org/spec/37)."""
    return bytes((flags, len(body))) + body


COMMAND = 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = frame(b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER", COMMAND)
PING = frame(b"\x04PING" + bytes(2), COMMAND)


@pytest.mark.suite
async def test_g7_a_busy_owner_of_long_messages_survives_a_peer_that_leaves_a_few_requests_and_heartbeats(
    tmp_path: Path,
) -> None:
    endpoint = f"ipc://{tmp_path}/x.rpc"
    owner = await owner_that_is_busy(endpoint, BUSY_S, request=2)
    client = rpc_client(zmq.asyncio.Context.instance(), endpoint, "x")
    running = asyncio.create_task(client.run())
    try:
        assert (await client.call(Ping(), Pong, 10)).pid == 1
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/x.rpc")
        writer.write(GREETING + READY)
        await reader.readexactly(len(GREETING))
        requests = [frame(encode(Ping(), id=b"%d" % number, timeout=5.0)) for number in range(8)]
        writer.write(b"".join([*requests[:4], PING, *requests[4:]]))
        assert owner.stdout is not None
        assert await owner.stdout.readline() == b"busy\n"
        writer.close()
        assert (await client.call(Ping(), Pong, 10)).pid == 1
        assert owner.returncode is None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if owner.returncode is None:
            owner.kill()
        await owner.wait()
