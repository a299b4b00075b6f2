"""The clock that everything else is given: nothing but this file reads the system's.

A test gives a clock of its own, and waits for nothing. The simulation (tests/simulation/) gives each process one that
stands still while the others work.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """A call that `Clock.call_in` has scheduled."""

    def cancel(self) -> None:
        """Do not call it; after it was called, do nothing."""


class Clock(Protocol):
    """Tells the time, and calls back later."""

    def now(self) -> float:
        """Return seconds since some moment; they never go back, whatever is done to the wall clock."""

    def wall(self) -> float:
        """Return Unix time in seconds, for people and for other hosts."""

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back from the event loop after `seconds`."""


class SystemClock:
    """This machine's clock (clock_gettime(2), CLOCK_MONOTONIC and CLOCK_REALTIME)."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back from the running event loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)


SYSTEM_CLOCK = SystemClock()


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after so many seconds of a clock."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_in(seconds, partial(_end, over))
    try:
        await over
    finally:
        timer.cancel()


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
