"""Processes of the suite as children of one: those of `jitsu up`, the workers of a jitsu-dns.

    spawned      -> its READY=1 comes (sd_notify(3))     ready
    dies                                                 started again: at once, then after 0.5, 1, 2, ... s
    dies with status 2 or above                          all end: it cannot run as it is configured

Children, and what they start, hold one end of a socket pair, the lifeline: when this process dies, however it does,
they see it close and stop; when the last of them is gone, this process sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.service_manager import LIFELINE_VARIABLE
from jitsu_runtime.settings.inherited import DESCRIPTOR_VARIABLE, handed_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import JsonValue

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
STABLE_S = 10.0
"""A child that lived that long is started again at once."""


@dataclass
class Child:
    """One process."""

    name: str
    service: str
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    """What it inherits, by "section.key"; see inherited.py."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside this process's own."""
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float = 0.0
    failures: int = 0


class Children:
    """All children of this process."""

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        """`say` is told what an operator should know."""
        self.children = list(children)
        self.stop = asyncio.Event()
        """Set when all are to end."""
        self.status = 0
        """With which this process ends."""
        self._say = say
        self._lifeline, self._lifeline_held = socket.socketpair()
        self._lifeline_held.setblocking(False)

    def fail(self, status: int) -> None:
        """End all of it; the first reason counts."""
        self.status = self.status or status
        self.stop.set()

    async def keep(self, child: Child) -> None:
        """Run a child until all are to end."""
        while not self.stop.is_set():
            status = await self._run(child)
            if self.stop.is_set():
                return
            if status >= EXIT_SETUP:
                self.fail(status)
                return
            wait = _backoff(child)
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            self._say(f"  {child.name:<9} died ({how}); started again{f' in {wait:g} s' if wait else ''}")
            await asyncio.sleep(wait)

    async def terminate(self, children: Sequence[Child], limit_s: float) -> None:
        """Stop some of them; who is still there after the limit is killed."""
        processes = [child.process for child in children if child.process is not None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(limit_s):
                for process in processes:
                    await process.wait()
        except TimeoutError:
            for process in processes:
                if process.returncode is None:
                    process.kill()
            for process in processes:
                await process.wait()

    async def let_go(self, limit_s: float) -> bool:
        """Cut the lifeline and wait for all who hold it, children of children too; say whether they are gone."""
        self._lifeline.close()
        self._lifeline_held.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().sock_recv(self._lifeline_held, 1)
        except TimeoutError:
            return False
        finally:
            self._lifeline_held.close()
        return True

    async def _run(self, child: Child) -> int:
        """Start a child and wait until it ends; returns its exit status, negative for a signal."""
        child.ready.clear()
        child.started_at = monotonic()
        lifeline = self._lifeline.fileno()
        with self._notifications(child) as address:
            try:
                with handed_down(child.settings) as settings:
                    own = {
                        "NOTIFY_SOCKET": address,
                        LIFELINE_VARIABLE: str(lifeline),
                        DESCRIPTOR_VARIABLE: str(settings),
                    }
                    child.process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        f"jitsu_{child.service}.main",
                        env={**os.environ, **child.environment, **own},
                        pass_fds=(lifeline, settings),
                        stdin=asyncio.subprocess.DEVNULL,
                        start_new_session=True,  # Ctrl-C reaches this process alone, which stops the others in order
                    )
            except OSError as error:  # too many processes or open files, no memory: that may pass
                self._say(f"  {child.name:<9} cannot be started: {error.strerror}")
                return EXIT_FAILED
            return await child.process.wait()

    @contextlib.contextmanager
    def _notifications(self, child: Child) -> Iterator[str]:
        """Listen for READY=1 of a child for as long as it runs; yields what NOTIFY_SOCKET is to be.

        The kernel chooses the address (unix(7), autobind), so that neither an earlier start of this child nor another
        user can have it already.
        """
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notified:
            notified.bind("")

            def read() -> None:
                with contextlib.suppress(OSError):
                    if b"READY=1" in notified.recv(4096).splitlines() and not child.ready.is_set():
                        child.ready.set()
                        self._say(f"  {child.name:<9} ready  {monotonic() - child.started_at:.2f} s")

            loop.add_reader(notified, read)
            try:
                yield "@" + notified.getsockname()[1:].decode()
            finally:
                loop.remove_reader(notified)


def _backoff(child: Child) -> float:
    if monotonic() - child.started_at >= STABLE_S:
        child.failures = 0
    child.failures += 1
    if child.failures == 1:
        return 0.0
    return float(min(FIRST_BACKOFF_S * 2 ** (child.failures - 2), MAX_BACKOFF_S))
