"""A thread pool for blocking libraries. Its threads are daemons, so a call that never returns cannot keep the process
from exiting.

concurrent.futures.ThreadPoolExecutor is not enough: before it exits, Python waits for all threads of such a pool.
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
    """A pool of at most `max_threads`; a new thread is made only when all others are busy."""

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self.idle = 0
        """How many threads wait for a call."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `work` on a thread, as soon as one is free."""
        future: Future[T] = Future()
        self._work.put((future, lambda: work(*args, **kwargs)))
        with self._lock:
            if self.idle:
                self.idle -= 1  # one of them gets this call
            elif self._count < self._max_threads:
                self._count += 1
                threading.Thread(target=self._serve, name=f"{self._name} {self._count}", daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                with self._lock:
                    self.idle += 1
                item = self._work.get()
            if item is None:
                return
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # the future raises it where the result is awaited
                    future.set_exception(error)
            del item, future, work  # do not keep them alive until the next call

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Let each thread end after its current call; `wait` is ignored, because a call may never return."""
        while cancel_futures:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                item[0].cancel()
        for _ in range(self._count):
            self._work.put(None)
