"""Places for readers of events. A user has at most half of them, so that nobody keeps everybody else out."""

from __future__ import annotations

from collections import Counter

from jitsu_web.rules.problems import HttpProblem


class StreamPlaces:
    """The places that are taken, by user."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many there are in all."""
        self._limit = limit
        self._taken: Counter[str] = Counter()

    def enter(self, user: str) -> None:
        """Give a user a place until `leave`; raises HttpProblem."""
        if self._taken.total() >= self._limit:
            raise HttpProblem(503, "too many readers of events", "close a page, or raise web.max_streams")
        if self._taken[user] >= max(1, self._limit // 2):
            hint = "a user has at most half of web.max_streams: close a page"
            raise HttpProblem(429, f"{user} has too many readers of events", hint)
        self._taken[user] += 1

    def leave(self, user: str) -> None:
        """Free a place."""
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
