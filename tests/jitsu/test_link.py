"""The tool and services that do not run, or not just now."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import zmq.asyncio

from jitsu import link
from jitsu_protocol.messages import Done, List
from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.bus.zeromq import rpc_server
from jitsu_runtime.settings.schema import BusSettings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires


@pytest.fixture
def bus(tmp_path: Path) -> BusSettings:
    """Return that of a suite that ran, and was killed: its sockets are there still."""
    for owner in link.OWNERS:
        with socket.socket(socket.AF_UNIX) as service:
            service.bind(str(tmp_path / f"{owner}.rpc"))
    return BusSettings(runtime_dir=str(tmp_path))


async def test_a_service_that_was_killed_is_not_waited_for(bus: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GONE_S", 0.2)
    async with asyncio.timeout(5), link.connect(bus) as connected:
        assert not connected.runs("store")
        with pytest.raises(Unavailable, match="no jitsu-store runs in"):
            await connected.call("store", List(prefix=""), Done, timeout=60)


async def test_a_service_that_is_started_again_meanwhile_answers(bus: BusSettings) -> None:
    context = zmq.asyncio.Context()
    async with link.connect(bus) as connected:
        answer = asyncio.create_task(connected.call("store", List(prefix=""), Done, timeout=60))
        assert not (await asyncio.wait({answer}, timeout=3 * link.PROBE_S))[0]
        server = rpc_server(context, str(bus.endpoint("store", "rpc")), {List: lambda _: Done()})
        running = asyncio.create_task(server.run())
        try:
            assert isinstance(await answer, Done)
            assert connected.runs("store")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            context.destroy(linger=0)


async def test_a_service_that_hangs_is_waited_for(bus: BusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GONE_S", 0.0)
    path = bus.directory / "store.rpc"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(path))
        service.listen()
        async with link.connect(bus) as connected:
            asked = asyncio.create_task(connected.call("store", List(prefix=""), Done, timeout=60))
            assert not (await asyncio.wait({asked}, timeout=5 * link.PROBE_S))[0]
            asked.cancel()
