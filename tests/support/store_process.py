"""A jitsu-store as a process of its own, and a client of its rpc."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import zmq.asyncio

from jitsu_protocol.messages import Applied, Apply, Change, Message, Ping, Pong
from jitsu_protocol.model.errors import TimedOut
from jitsu_runtime.bus.zeromq import rpc_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from jitsu_protocol.messages import Request
    from jitsu_runtime.bus.rpc_client import RpcClient

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 20.0
R = TypeVar("R", bound=Message)


class StoreProcess:
    """One start of a store, and a client that outlives it."""

    def __init__(self, path: Path, runtime: Path, client: RpcClient) -> None:
        self._argv = [sys.executable, "-m", "jitsu_store.main", "--path", str(path), "--bus-runtime-dir", str(runtime)]
        self._client = client
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> float:
        """Start it; returns how long it took until it answered."""
        begun = monotonic()
        self._spawn()
        while True:
            try:
                await self.call(Ping(), Pong, 0.5)
            except TimedOut:
                assert self._is_running(), "the store has ended"
                assert monotonic() < begun + START_LIMIT_S
            else:
                return monotonic() - begun

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _spawn(self) -> None:
        self._process = subprocess.Popen(self._argv, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, kill -9, to it and its packer."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)
        self._process.communicate(timeout=20)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end; returns its status."""
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        self._process.communicate(timeout=20)
        return self._process.returncode

    def close(self) -> None:
        """End what was started."""
        if self._process is not None:
            self.kill()

    async def call(self, request: Request, reply: type[R], timeout: float = 10.0) -> R:
        """Call it."""
        return await self._client.call(request, reply, timeout)

    async def apply(self, changes: Mapping[str, str | None], timeout: float = 10.0) -> Applied:
        """Change master."""
        listed = [Change(path=path, value=value) for path, value in changes.items()]
        wanted = Apply(changes=listed, author="operator:test", message="Test", request=uuid.uuid4().hex[:16])
        return await self.call(wanted, Applied, timeout)


class ForkedStore(StoreProcess):
    """One that is started without the half second that Python needs."""

    def __init__(self, path: Path, runtime: Path, client: RpcClient) -> None:
        super().__init__(path, runtime, client)
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "tests.support.store_forks", str(path), str(runtime)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._pid = 0

    def _ask(self, what: str) -> str:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(what + "\n")
        self._forker.stdin.flush()
        return self._forker.stdout.readline()

    def _spawn(self) -> None:
        self._pid = int(self._ask("start"))

    def _is_running(self) -> bool:
        return Path(f"/proc/{self._pid}").exists()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, kill -9, to it and its packer."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, number)
            self._ask("wait")
            self._pid = 0

    def close(self) -> None:
        """End who forks as well."""
        self.kill()
        self._forker.communicate()


@asynccontextmanager
async def store_process(
    path: Path, runtime: Path, kind: type[StoreProcess] = StoreProcess
) -> AsyncIterator[StoreProcess]:
    """Have a store that is not started yet, and is gone afterwards."""
    context = zmq.asyncio.Context()
    client = rpc_client(context, f"ipc://{runtime}/store.rpc", "store")
    task = asyncio.create_task(client.run())
    store = kind(path, runtime, client)
    try:
        yield store
    finally:
        store.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        context.destroy(linger=0)
