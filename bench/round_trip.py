"""A round trip between two idle Python processes over ZeroMQ: raw, and as our bus makes it.

    python -m bench.round_trip

"Raw" is the floor of everything that Jitsu sends: a DEALER and a ROUTER whose descriptors uvloop watches, and bytes
that nobody reads. The other row sends a Ping through runtime/bus and has its Pong. Rounds of the two alternate, and
between two round trips both processes sleep, as they do before a cold query.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from contextlib import contextmanager
from multiprocessing import get_context
from time import monotonic, process_time
from typing import TYPE_CHECKING, cast

import zmq

from bench.cpu import used_by
from bench.size import sized
from jitsu_protocol.messages import Ping, Pong
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import rpc_client, rpc_server
from jitsu_runtime.service import run_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROUND_TRIPS, ROUNDS = sized(100, 10), sized(5, 2)
PAUSE_S = 0.01
RAW, BUS = "raw", "bus"
POLLIN = int(zmq.POLLIN)


def _pong(_: Ping) -> Pong:
    return Pong(service="x", version="1", pid=os.getpid(), uptime_s=1.0)


def _serve(directory: str) -> None:
    """Be the other process: answer both kinds."""

    async def main() -> None:
        raw = zmq.Context().socket(zmq.ROUTER)
        raw.bind(f"ipc://{directory}/{RAW}")

        def echo() -> None:
            while _is_readable(raw):
                raw.send_multipart(raw.recv_multipart())

        asyncio.get_running_loop().add_reader(_descriptor(raw), echo)
        echo()
        await rpc_server(Context(), f"ipc://{directory}/{BUS}", {Ping: _pong}).run()

    run_loop(main())


def _is_readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(cast("int", socket.getsockopt(zmq.EVENTS)) & POLLIN)


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return cast("int", socket.getsockopt(zmq.FD))


def _raw(directory: str) -> Callable[[], Awaitable[None]]:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(f"ipc://{directory}/{RAW}")
    waits: list[asyncio.Future[None]] = []

    def received() -> None:
        while _is_readable(socket):
            socket.recv_multipart()
            waits.pop().set_result(None)

    asyncio.get_running_loop().add_reader(_descriptor(socket), received)

    async def once() -> None:
        waits.append(asyncio.get_running_loop().create_future())
        socket.send(b"x" * 60)
        received()
        if waits:
            await waits[0]

    return once


async def measured(directory: str, pid: int) -> dict[str, tuple[list[float], float]]:
    """Return of each kind how long each round trip took, and the processor time of one in both processes; in ms."""
    client = rpc_client(Context(), f"ipc://{directory}/{BUS}", "x")
    runs = asyncio.create_task(client.run())

    async def ping() -> None:
        await client.call(Ping(), Pong, 5.0)

    kinds = {RAW: _raw(directory), BUS: ping}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu_ms = dict.fromkeys(kinds, 0.0)
    for kind in list(kinds) * ROUNDS:
        await kinds[kind]()
        before, mine = used_by(pid), process_time()
        for _ in range(ROUND_TRIPS):
            begun = monotonic()
            await kinds[kind]()
            times[kind].append(1000 * (monotonic() - begun))
            await asyncio.sleep(PAUSE_S)
        spent = used_by(pid) - before
        cpu_ms[kind] += spent.user_ms + spent.system_ms + 1000 * (process_time() - mine)
    runs.cancel()
    return {kind: (times[kind], cpu_ms[kind] / len(times[kind])) for kind in kinds}


@contextmanager
def other_process(directory: str) -> Iterator[int]:
    """Run the other process, and give its pid."""
    process = get_context("spawn").Process(target=_serve, args=(directory,), daemon=True)
    process.start()
    try:
        yield int(process.pid or 0)
    finally:
        process.kill()
        process.join()


def rows() -> dict[str, tuple[list[float], float]]:
    """Measure both kinds."""
    with tempfile.TemporaryDirectory() as directory, other_process(directory) as pid:
        return run_loop(measured(directory, pid))


def print_rows() -> float:
    """Measure, print a row for each kind, and return the median of the raw one in ms."""
    print(f"{'an idle round trip (ms)':<34}{'median':>10}{'p99':>10}{'max':>10}{'processor':>12}")
    measured_rows = rows()
    for kind, (times, cpu_ms) in measured_rows.items():
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        name = {RAW: "ZeroMQ, read from uvloop", BUS: "through our bus"}[kind]
        print(f"{name:<34}{statistics.median(times):>10.3f}{cuts[98]:>10.3f}{max(times):>10.3f}{cpu_ms:>12.3f}")
    return statistics.median(measured_rows[RAW][0])


if __name__ == "__main__":
    print_rows()
