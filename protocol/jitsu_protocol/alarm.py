"""One timer for the earliest of the deadlines that rules have (their `next_deadline` and `passed`).

                set(due)                    due               a deadline is judged
    no timer ────────────► waiting ───────────────────────────────► passed()
                              │ more than HELD_UP_S late               ▲
                              └────────► listening ────────────────────┘
                                                      LISTEN_S

Who was held up (a host that swaps, a container that is paused) finds its deadlines past and what would have met them
unread in its sockets. It reads for a moment before it judges; once, so that one that always comes late judges too.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HELD_UP_S = 0.25
LISTEN_S = 0.2
"""Time for what takes some steps: a probe that connects, a message that another process answers."""


class Alarm:
    """Calls `passed` at the time that was set last."""

    def __init__(self, passed: Callable[[], None]) -> None:
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._rings_at = 0.0
        self._listens = False

    def set(self, due: float | None) -> None:
        """Ring at `due` (time.monotonic()), or at once if that is past; None: not at all."""
        if due == self._due:
            return
        self._due = due
        if self._listens and due is not None and due <= monotonic():
            return  # it is judged with what is past already
        self._stop()
        if due is not None:
            self._ring_in(due - monotonic())

    def _stop(self) -> None:
        self._listens = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring_in(self, seconds: float) -> None:
        wait = max(0.0, seconds)
        self._rings_at = monotonic() + wait
        self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        if monotonic() - self._rings_at > HELD_UP_S and not self._listens:
            self._listens = True
            self._ring_in(LISTEN_S)
            return
        self._timer = self._due = None
        self._listens = False
        self._passed()
