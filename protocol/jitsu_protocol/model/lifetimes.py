"""Until when the answers that were given out for a VM are within their TTL (guarantee G3).

What counts is the TTL that an answer had when it was given, not the one that is configured now. A process that does not
tell it (protocol 1.1) is taken to have given the larger of the old and the new one, and so is one that is silent.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_S = 3600.0
"""How long a TTL that was lowered is remembered, at least: a dns replica that the store does not reach may go on giving
it. One that does reports it, and that renews the memory."""


@dataclass
class AnswerLifetimes:
    """The answers for one VM. Times are monotonic seconds, TTLs seconds."""

    ttl: int = 0
    """The longest of the VM's names, as configured now."""
    until: float = float("-inf")
    """When the last answer that is known of is no longer valid."""
    _older: int = 0
    _forget_older_at: float = float("-inf")

    def configured(self, ttl: int, now: float) -> None:
        """Note the TTL that is configured now."""
        if ttl < self.ttl:
            self._remember(self.ttl, now)
        self.ttl = ttl

    def answered(self, at: float, ttl: int | None, now: float) -> None:
        """Note an answer, and the TTL that it had; None if that is not known."""
        given = self.longest(now) if ttl is None else ttl
        if given > self.ttl:
            self._remember(given, now)
        self.until = max(self.until, at + given)

    def longest(self, now: float) -> int:
        """Return the longest TTL that an answer may have that is given now."""
        return max(self.ttl, self._older) if now < self._forget_older_at else self.ttl

    def _remember(self, ttl: int, now: float) -> None:
        self._older = max(ttl, self._older if now < self._forget_older_at else 0)
        self._forget_older_at = max(self._forget_older_at, now + max(float(ttl), MEMORY_S))
