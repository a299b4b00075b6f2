"""Blocking libraries on threads: a call that hangs delays no other call.

Looking at VMs is limited in time, and is not begun again while the look before it still hangs: a library that hangs
costs one thread, and not one for each look.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

MAX_THREADS = 64
T = TypeVar("T")


class Threads:
    """The threads of one hypervisor's connection."""

    def __init__(self, name: str, translating: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """What is done within `translating` raises a JitsuError in place of an error of the library."""
        self._name = name
        self._threads = DaemonThreads(MAX_THREADS, name)
        self._translating = translating
        self._looking: asyncio.Future[object] | None = None

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run work on a thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._caught, work)

    def _caught(self, work: Callable[[], T]) -> T:
        with self._translating():
            return work()

    async def within(self, limit: float, otherwise: str, work: Callable[[], T]) -> T:
        """Run work on a thread and wait for it; raises Unavailable (`otherwise`) after `limit` seconds."""
        return await limited(self.run(work), limit, otherwise)

    async def look(self, limit: float, work: Callable[[], T]) -> T:
        """Run a look on a thread and wait for it; raises Unavailable if this look, or the one before it, hangs."""
        otherwise = f"{self._name} does not answer"
        if self._looking is not None and not self._looking.done():
            raise Unavailable(otherwise)
        looking = self.run(work)
        self._looking = looking  # type: ignore[assignment]  # a future of anything
        return await limited(asyncio.shield(looking), limit, otherwise)


async def limited(work: asyncio.Future[T], limit: float, otherwise: str) -> T:
    """Wait for it; raises Unavailable (`otherwise`) if it takes longer than `limit`, in seconds."""
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        raise Unavailable(otherwise) from None
