"""Blocking libraries on threads: a call that hangs holds up no other, nor the end of the process.

The threads are daemons, which those of concurrent.futures cannot be: before it exits, Python waits for each of them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from jitsu_protocol.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 64
T = TypeVar("T")


class Threads:
    """The threads of one hypervisor's connection."""

    def __init__(self, name: str, translated: Callable[[Exception], Exception | None]) -> None:
        """`translated` returns what is raised for an error of the library, None for one that is not its own."""
        self._name = name
        self._translated = translated
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._looking: asyncio.Future[object] | None = None

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do something on a thread; when all are busy, as soon as one is not."""
        future: Future[T] = Future()
        self._work.put((future, work))
        if not self._idle.acquire(blocking=False) and self._count < MAX_THREADS:
            self._count += 1
            threading.Thread(target=self._serve, name=f"{self._name} {self._count}", daemon=True).start()
        return asyncio.wrap_future(future)

    def _serve(self) -> None:
        while True:
            try:
                future, work = self._work.get_nowait()
            except queue.Empty:
                self._idle.release()
                future, work = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:  # whatever the library raises, its translation says what it means
                    future.set_exception(self._translated(error) or error)
            del future, work

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
