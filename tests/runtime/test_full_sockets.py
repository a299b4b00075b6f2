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
OWNER = f"""
import asyncio, sys, time, zmq.asyncio
from jitsu_protocol.messages import Ping, Pong
from jitsu_runtime.bus.zeromq import rpc_server

def pong(_):
    global seen
    if not seen:
        seen = True
        print("busy", flush=True)
        time.sleep({BUSY_S})
    return Pong(service="x", version="1", pid=1, uptime_s=0.0)

seen = False
asyncio.run(rpc_server(zmq.asyncio.Context(), sys.argv[1], {{Ping: pong}}).run())
"""


@pytest.mark.suite
async def test_g7_an_owner_survives_a_peer_that_fills_its_socket_and_dies(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/x.rpc"
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, endpoint, stdout=asyncio.subprocess.PIPE)
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
