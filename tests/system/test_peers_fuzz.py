"""A fuzz of peers: each role's key sends every kind of request, with bodies mutated by size, depth, type and count, to
every service of a suite that runs (G9). Nobody else may notice: an operator's pings are answered within half a second,
and no process grows by more than 100 MB. FUZZ_SECONDS and FUZZ_SEED make it longer, or another one (`make fuzz-peers`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq.asyncio

from jitsu.keys import init
from jitsu_protocol.bus import RpcClient
from jitsu_protocol.curve import Curve
from jitsu_protocol.messages import Ping, Pong
from tests.support.suite import SLOWER, RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from collections.abc import Coroutine

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
SEED = os.environ.get("FUZZ_SEED", "1")
OWNERS = ("store", "vmd", "reaper")
PING_LIMIT_S = 0.5 * SLOWER
GROWTH_LIMIT_MB = 100


def megabytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1_000_000


@pytest.mark.suite
@pytest.mark.alone
@pytest.mark.timeout(0 if SECONDS > 60 else 120)
async def test_g9_no_key_can_make_a_service_grow_or_keep_it_from_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    init(keys)
    names = ("store_rpc", "store_feed", "vmd_rpc", "vmd_feed", "synjitsu_rpc", "reaper_rpc")
    lines = [f'{name} = "tcp://127.0.0.1:{free_port()}"' for name in names]
    toml = "\n".join(["[bus]", f'keys = "{keys}"', *lines, "", vm_toml("www", "127.2.61.1")])
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work))

    with RunningSuite(tmp_path, toml=toml) as suite:
        endpoints = {owner: suite.bus().endpoint(owner, "rpc") for owner in OWNERS}
        context = zmq.asyncio.Context()
        curve = Curve(context, keys, "operator", spawn)
        clients = {owner: RpcClient(context, endpoint, owner, curve) for owner, endpoint in endpoints.items()}
        for client in clients.values():
            spawn(client.run())
        try:
            pids = {owner: (await clients[owner].call(Ping(), Pong, 5)).pid for owner in OWNERS}
            before = {owner: megabytes(pid) for owner, pid in pids.items()}
            slowest = dict.fromkeys(OWNERS, 0.0)
            grown = dict.fromkeys(OWNERS, 0)
            words = [f"{owner}={endpoint}" for owner, endpoint in endpoints.items()]
            command = (sys.executable, "-m", "tests.support.hostile_peers", str(keys), str(SECONDS), SEED, *words)
            attackers = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            over = asyncio.create_task(attackers.communicate())
            while not over.done():
                for owner, pid in pids.items():
                    began = time.monotonic()
                    assert (await clients[owner].call(Ping(), Pong, 5)).pid == pid
                    slowest[owner] = max(slowest[owner], time.monotonic() - began)
                    grown[owner] = max(grown[owner], megabytes(pid) - before[owner])
                await asyncio.sleep(0.02)
            sent = int((await over)[0])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            context.destroy(linger=0)
        print(f"{sent} requests; the slowest pings: {slowest}; MB of growth: {grown}")
        assert sent > 100
        assert max(grown.values()) <= GROWTH_LIMIT_MB
        assert max(slowest.values()) <= PING_LIMIT_S
