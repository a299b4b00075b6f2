"""The answers of other servers that need not be asked for again, and their failures (RFC 9520)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_dns.rules.upstream import Response

MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Of answers: a quarter of a million short ones, or 500 of the longest."""
FAILURE_S = 1.0  # RFC 9520, 3.2: at least a second
MAX_FAILURES_KEPT = 10_000

Key = tuple[bytes, bytes, bool, bool]
"""Name in lower case, type and class, whether DNSSEC records are wanted, whether unchecked ones are (CD)."""


class KeptAnswers:
    """Answers and failures, each for as long as it holds."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[float, Response]] = OrderedDict()
        self._failures: OrderedDict[Key, tuple[float, str]] = OrderedDict()
        self.size_bytes = 0

    def answer(self, key: Key, now: float) -> tuple[int, Response] | None:
        """Return how old a kept answer is, in seconds, and the answer."""
        found = self._answers.get(key)
        if found is None or now >= found[0] + found[1].ttl:
            return None
        self._answers.move_to_end(key)
        return int(now - found[0]), found[1]

    def failure(self, key: Key, now: float) -> str:
        """Return why a question failed a moment ago, or nothing."""
        until, reason = self._failures.get(key, (0.0, ""))
        return reason if now < until else ""

    def keep(self, key: Key, response: Response, now: float) -> None:
        """Keep an answer; those that nobody has asked for lately make room."""
        self._forget(key)
        self._answers[key] = (now, response)
        self.size_bytes += len(key[0]) + response.size_bytes
        while self.size_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._answers)))

    def keep_failure(self, key: Key, reason: str, now: float) -> None:
        """Keep a failure for a moment (RFC 9520)."""
        self._failures.pop(key, None)
        self._failures[key] = (now + FAILURE_S, reason)
        if len(self._failures) > MAX_FAILURES_KEPT:
            self._failures.popitem(last=False)

    def _forget(self, key: Key) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self.size_bytes -= len(key[0]) + found[1].size_bytes
