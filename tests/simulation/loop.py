"""The event loop of one simulated process.

It waits for nothing: its time is the simulation's, and it runs only while the simulation steps it. A process that is
killed is one whose loop is never stepped again, so that no `finally` runs and nothing is closed. One that is suspended
is not stepped for a while; when it is, its timers ring before it reads what has arrived, which is the worse order.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from heapq import heappop
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

NEVER = float("inf")
MAX_FINALLY = 5
"""Coroutines in a TaskGroup wait once more when they are closed."""
MAX_TURNS = 100_000
"""Of a loop at one moment; a process that has work for more has work for ever."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """One that is stepped from outside."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, time: Callable[[], float], work_s: Callable[[], float]) -> None:
        """`work_s` says how long a piece of work takes that a process gives to a thread."""
        super().__init__()
        self._virtual_time = time
        self._work_s = work_s
        self._threads: dict[int, float] = {}
        """Executor -> when it has done what it was given."""

    def time(self) -> float:
        return self._virtual_time()

    def wakes_at(self) -> float:
        """Return when there is something to do; now, or earlier, if there is already."""
        if self._ready:
            return 0.0
        while self._scheduled and self._scheduled[0].cancelled():
            heappop(self._scheduled)
        return self._scheduled[0].when() if self._scheduled else NEVER

    def step(self) -> None:
        """Call whatever is due, until nothing is left to do at this moment."""
        now, ready, scheduled = self.time(), self._ready, self._scheduled
        asyncio._set_running_loop(self)
        try:
            for _ in range(MAX_TURNS):
                while scheduled and scheduled[0].when() <= now:
                    ready.append(heappop(scheduled))
                if not ready:
                    return
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    if not handle.cancelled():
                        handle._run()
            raise AssertionError("a process never has nothing to do")
        finally:
            asyncio._set_running_loop(None)

    def run_in_executor(  # type: ignore[override]  # of its own type variables only asyncio can make something
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do the work here, some time later: one thing after the other for each executor, as if it had one thread."""
        future: asyncio.Future[Any] = self.create_future()
        at = max(self.time() + self._work_s(), self._threads.get(id(executor), 0.0))
        self._threads[id(executor)] = at

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # the caller's, as with a real thread
                future.set_exception(error)

        self.call_at(at, work)
        return future

    call_soon_threadsafe = asyncio.BaseEventLoop.call_soon

    def __del__(self) -> None:
        """Say nothing: a loop that was dropped is what this is about."""


def bury(loop: asyncio.AbstractEventLoop) -> None:
    """Let go of the tasks of a loop that is never stepped again, at the end of a simulation and without a word."""
    tasks = asyncio.all_tasks(loop)
    asyncio._set_running_loop(loop)
    try:
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            work = task.get_coro()
            for _ in range(MAX_FINALLY):
                with suppress(BaseException):  # what its `finally` runs into, in a process that is gone
                    work.close()
                    break
    finally:
        asyncio._set_running_loop(None)
