"""How long clients may still use the answers that they were given for a VM (guarantee G3).

A resolver may use an answer for the TTL that it had when it was given (RFC 1035, section 3.2.1), even if another TTL is
configured by now. A process that does not report its TTLs (protocol 1.1) is assumed to have given the larger of the old
and the new one, and so is a process that is silent.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_S = 3600.0
"""How long a larger TTL is remembered at least after it was lowered, because a dns replica that the store cannot reach
may go on answering with it. If that replica reports the TTL, it is remembered for longer."""

REPLY_MAX_AGE_S = 0.25
"""A dns replica that the reaper does not count on answers because vmd has replied to its summon. The reply may be this
old when it answers, and vmd counts the answer's TTL from that much later."""


@dataclass
class AnswerLifetimes:
    """The answers for one VM. Times are seconds on the clock of `now`; TTLs are seconds."""

    ttl: int = 0
    """The longest TTL of the VM's names, as configured now."""
    until: float = float("-inf")
    """When the last answer that was reported expires."""
    _older: int = 0
    _forget_older_at: float = float("-inf")

    def configured(self, ttl: int, now: float) -> None:
        """Note the TTL that is configured now."""
        if ttl < self.ttl:
            self._remember(self.ttl, now)
        self.ttl = ttl

    def answered(self, at: float, ttl: int | None, now: float) -> None:
        """Note an answer that was given at `at`, and its TTL, or None if that is not known."""
        given = self.longest(now) if ttl is None else ttl
        if given > self.ttl:
            self._remember(given, now)
        self.until = max(self.until, at + given)

    def longest(self, now: float) -> int:
        """Return the longest TTL that an answer given now may have."""
        return max(self.ttl, self._older) if now < self._forget_older_at else self.ttl

    def _remember(self, ttl: int, now: float) -> None:
        self._older = max(ttl, self._older if now < self._forget_older_at else 0)
        self._forget_older_at = max(self._forget_older_at, now + max(float(ttl), MEMORY_S))
