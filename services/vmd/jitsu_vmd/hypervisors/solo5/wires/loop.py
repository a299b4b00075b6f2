"""A small event loop for the launcher: descriptors that can be read or written, and calls at a later time.

asyncio would do, and would make the launcher's fork(2) 0.1 ms slower: the kernel copies the page tables of all that it
has loaded.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


now = time.monotonic
"""Seconds that never go back. jitsu_runtime.clock would load asyncio."""


class Loop:
    """Calls what is ready, until it is stopped."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.is_stopped = False

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, (ready, None))

    def watch_both(self, descriptor: int, ready: Callable[[], None], writable: Callable[[], None] | None) -> None:
        """Watch a descriptor that is watched already for being writable as well, or no longer."""
        events = selectors.EVENT_READ | (0 if writable is None else selectors.EVENT_WRITE)
        self._selector.modify(descriptor, events, (ready, writable))

    def unwatch(self, descriptor: int) -> None:
        """Watch a descriptor no longer; no error if it is not watched."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something once, that much later."""
        heapq.heappush(self._later, (now() + seconds, next(self._order), call))

    def run(self) -> None:
        """Turn until `is_stopped`."""
        while not self.is_stopped:
            wait = max(0.0, self._later[0][0] - now()) if self._later else None
            for key, events in self._selector.select(wait):
                ready, writable = key.data
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # a call before this one has closed it
                if events & selectors.EVENT_WRITE and writable is not None:
                    writable()
                elif events & selectors.EVENT_READ:
                    ready()
            while self._later and self._later[0][0] <= now():
                heapq.heappop(self._later)[2]()
