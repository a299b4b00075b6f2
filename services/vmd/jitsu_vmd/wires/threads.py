"""Blocking libraries on threads: a call that hangs holds up no other, and looking at all VMs says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 64
T = TypeVar("T")


class Threads:
    """The threads of one hypervisor's connection."""

    def __init__(self, name: str, translated: Callable[[Exception], Exception | None]) -> None:
        """`translated` returns what is raised for an error of the library, None for one that is not its own."""
        self._name = name
        self._threads = DaemonThreads(MAX_THREADS, name)
        self._translated = translated
        self._looking: asyncio.Future[object] | None = None

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do something on a thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._caught, work)

    def _caught(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:  # whatever the library raises, its translation says what it means
            known = self._translated(error)
            if known is None:
                raise
            raise known from None

    async def within(self, limit: float, otherwise: str, work: Callable[[], T]) -> T:
        """Do something on a thread and wait for it; raises Unavailable (`otherwise`) if it takes longer."""
        return await limited(self.run(work), limit, otherwise)

    async def look(self, limit: float, work: Callable[[], T]) -> T:
        """The same for what is done now and then; it is not begun again while it still hangs."""
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
