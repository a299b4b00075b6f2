"""Threads for libraries that block, of which no call that hangs keeps a process from its end.

concurrent.futures.ThreadPoolExecutor does: before it exits, Python waits for each of its threads. These are daemons.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """So many threads at most; one is made when all that there are work."""

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._making = threading.Lock()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do something on a thread; when all work, as soon as one does not."""
        future: Future[T] = Future()
        self._work.put((future, lambda: work(*args, **kwargs)))
        with self._making:
            if not self._idle.acquire(blocking=False) and self._count < self._max_threads:
                self._count += 1
                threading.Thread(target=self._serve, name=f"{self._name} {self._count}", daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                self._idle.release()
                item = self._work.get()
            if item is None:
                return
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # whoever waits for it gets it
                    future.set_exception(error)
            del item, future, work  # what was asked and answered is not kept until the next

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Let the threads end when they have done what they do; `wait` is not for daemons."""
        while cancel_futures:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                item[0].cancel()
        for _ in range(self._count):
            self._work.put(None)
