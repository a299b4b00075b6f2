"""Keeps processes of the suite running as children: the services under `jitsu up`, and the workers of a jitsu-dns.

    a child                        then
    may not begin yet              it loads its program, reports that, and waits
    reports READY=1 (sd_notify(3)) it is ready
    dies with status 0 or 1        it is started again: at once the first time, then after 0.5, 1, 2, ... s
    dies with status 2 or above    all children are stopped: this one cannot run as it is configured

Every child, and every process that a child starts, inherits one end of a socket pair: the lifeline. When this process
dies, for whatever reason, they see their end close and stop. When the last of them has gone, this process sees its own
end close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.service import EXIT_FAILED, EXIT_SETUP
from jitsu_runtime.service_manager import BEGIN_VARIABLE, LIFELINE_VARIABLE, LOADED
from jitsu_runtime.settings.inherited import DESCRIPTOR_VARIABLE, handed_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import JsonValue

    from jitsu_runtime.clock import Clock

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
STABLE_S = 10.0
"""A child that lived for this long is started again at once, as if it had never failed."""


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Child:
    """One process that is kept running."""

    name: str
    service: str
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    """The settings that it inherits, by "section.key" (settings/inherited.py)."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it has besides those of this process."""
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has loaded its program, which takes a third of a second of processor time."""
    may_begin: asyncio.Event = field(default_factory=_set)
    """Cleared before a child is started, if that is to load its program and wait until this is set."""
    started_at: float = 0.0
    failures: int = 0
    """How often it has died in a row without living for STABLE_S."""

    def backoff(self, now: float) -> float:
        """Note that it has died, and return the seconds to wait before it is started again."""
        if now - self.started_at >= STABLE_S:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return float(min(FIRST_BACKOFF_S * 2 ** (self.failures - 2), MAX_BACKOFF_S))


class Children:
    """All children of this process."""

    def __init__(self, children: Sequence[Child], say: Callable[[str], None], clock: Clock = SYSTEM_CLOCK) -> None:
        """`say` prints a line for the operator."""
        self.children = list(children)
        self.stop = asyncio.Event()
        """Set when all children have to end."""
        self.status = 0
        """The exit status of this process."""
        self._say = say
        self._clock = clock
        self._lifeline, self._own_end = socket.socketpair()
        self._own_end.setblocking(False)

    def fail(self, status: int) -> None:
        """End all children; the status of the first failure becomes that of this process."""
        self.status = self.status or status
        self.stop.set()

    async def keep(self, child: Child) -> None:
        """Run a child, and start it again when it dies, until all children have to end."""
        while not self.stop.is_set():
            status = await self._run(child)
            if self.stop.is_set():
                return
            if status >= EXIT_SETUP:
                self.fail(status)
                return
            wait = child.backoff(self._clock.now())
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            self._say(f"  {child.name:<9} died ({how}); started again{f' in {wait:g} s' if wait else ''}")
            await asyncio.sleep(wait)

    async def terminate(self, children: Sequence[Child], limit_s: float) -> None:
        """Send SIGTERM to some of them, and SIGKILL to those that are still there after `limit_s` seconds."""
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
        """Close the lifeline and wait for every process that has it; return whether all are gone in time."""
        self._lifeline.close()
        self._own_end.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().sock_recv(self._own_end, 1)
        except TimeoutError:
            return False
        finally:
            self._own_end.close()
        return True

    async def _run(self, child: Child) -> int:
        """Start a child, wait until it ends, and return its exit status, or minus the signal that killed it."""
        child.ready.clear()
        child.started_at = self._clock.now()
        lifeline = self._lifeline.fileno()
        with self._notifications(child) as address, self._held(child) as held:
            try:
                with handed_down(child.settings) as settings:
                    own = {
                        "NOTIFY_SOCKET": address,
                        LIFELINE_VARIABLE: str(lifeline),
                        DESCRIPTOR_VARIABLE: str(settings),
                    } | ({} if held is None else {BEGIN_VARIABLE: str(held.fileno())})
                    child.process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        f"jitsu_{child.service}.main",
                        env={**os.environ, **child.environment, **own},
                        pass_fds=(lifeline, settings, *([] if held is None else [held.fileno()])),
                        stdin=asyncio.subprocess.DEVNULL,
                        start_new_session=True,  # Ctrl-C must reach this process only; it then stops the others
                    )
            except OSError as error:  # too many processes or open files, or no memory: the next try may work
                self._say(f"  {child.name:<9} cannot be started: {error.strerror}")
                return EXIT_FAILED
            finally:
                if held is not None:
                    held.close()
            return await child.process.wait()

    @contextlib.contextmanager
    def _held(self, child: Child) -> Iterator[socket.socket | None]:
        """Yield the end of a pair of sockets at which a child waits until it may begin, None if it may already.

        When this process ends, or when the child is not needed any more, the other end is closed.
        """
        if child.may_begin.is_set():
            yield None
            return
        opens, waits = socket.socketpair()

        async def let_begin() -> None:
            await child.may_begin.wait()
            child.started_at = self._clock.now()
            with contextlib.suppress(OSError):
                opens.send(b"1")

        with opens, waits:
            letting = asyncio.create_task(let_begin())
            try:
                yield waits
            finally:
                letting.cancel()

    @contextlib.contextmanager
    def _notifications(self, child: Child) -> Iterator[str]:
        """Listen for READY=1 of a child while it runs; yields the value of its NOTIFY_SOCKET.

        The kernel chooses the address (unix(7), autobind feature), so that neither an earlier start of this child nor
        another user can have it already.
        """
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notified:
            notified.bind("")

            def read() -> None:
                with contextlib.suppress(OSError):
                    lines = notified.recv(4096).splitlines()
                    if LOADED.encode() in lines:
                        child.loaded.set()
                    if b"READY=1" in lines and not child.ready.is_set():
                        child.ready.set()
                        self._say(f"  {child.name:<9} ready  {self._clock.now() - child.started_at:.2f} s")

            loop.add_reader(notified, read)
            try:
                yield "@" + notified.getsockname()[1:].decode()
            finally:
                loop.remove_reader(notified)
