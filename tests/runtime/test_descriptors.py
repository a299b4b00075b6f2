"""The limit on open files, and what follows for the bus."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import TYPE_CHECKING

import pytest
import zmq.asyncio

from jitsu_protocol.messages import Ping, Pong
from jitsu_runtime import descriptors
from jitsu_runtime.bus import sockets
from jitsu_runtime.bus.zeromq import rpc_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "then"),
    [(1024, 4096, 2120, 2120), (1024, 2000, 2120, 2000), (4096, 4096, 2120, 4096), (1024, -1, 2120, 2120)],
)
def test_the_soft_limit_is_raised_up_to_the_hard_limit_and_never_lowered(
    soft: int, hard: int, wanted: int, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert descriptors.raise_limit(wanted) == then
    assert limits[-1] == (then, hard)


def test_the_connections_of_two_endpoints_use_half_of_the_descriptors() -> None:
    assert descriptors.connections_allowed(1024) == 216
    assert descriptors.connections_allowed(64) == descriptors.LEAST_CONNECTIONS
    assert descriptors.connections_allowed(1 << 20) == descriptors.MAX_CONNECTIONS


async def test_a_peer_that_sends_no_handshake_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 50)
    context = zmq.asyncio.Context()
    server = rpc_server(
        context, f"ipc://{tmp_path}/x.rpc", {Ping: lambda _: Pong(service="", version="", pid=1, uptime_s=0)}
    )
    running = asyncio.create_task(server.run())
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(f"{tmp_path}/x.rpc")
        silent.settimeout(10)
        greeting = await asyncio.to_thread(lambda: b"".join(iter(lambda: silent.recv(100), b"")))
        assert greeting.startswith(b"\xff"), "the greeting of libzmq, and then the end of the connection"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    context.destroy(linger=0)
