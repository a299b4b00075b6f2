from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import zmq.asyncio

from jitsu_protocol import sockets
from jitsu_protocol.messages import Ping, Pong
from jitsu_protocol.owner import RpcServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RAISED = """
import resource, sys
from jitsu_protocol.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))
print(raise_limit(1000), raise_limit(500), raise_limit(9000), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_is_raised_as_far_as_it_may_be_and_never_lowered() -> None:
    done = subprocess.run([sys.executable, "-c", RAISED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1000", "1000", "2000", "2000", "2000"]


async def test_a_peer_that_says_nothing_does_not_keep_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 50)
    context = zmq.asyncio.Context()
    server = RpcServer(
        context, f"ipc://{tmp_path}/x.rpc", {Ping: lambda _: Pong(service="", version="", pid=1, uptime_s=0)}
    )
    running = asyncio.create_task(server.run())
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(f"{tmp_path}/x.rpc")
        silent.settimeout(10)
        greeting = await asyncio.to_thread(lambda: b"".join(iter(lambda: silent.recv(100), b"")))
        assert greeting.startswith(b"\xff"), "its own greeting, and then the end"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    context.destroy(linger=0)
