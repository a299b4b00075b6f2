"""Who may try again when: a VM that keeps failing waits, twice as long each time, up to a limit (G2)."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 1.0
LIMIT_S = 300.0
STABLE_S = 10.0
"""A VM that was ready for that long has recovered; one that dies sooner keeps failing."""


@dataclass
class Backoff:
    """The failures of one VM."""

    failures: int = 0
    retry_at: float = 0.0
    _ready_at: float | None = None

    def failed(self, now: float) -> None:
        """Note a failed boot, or a death soon after one."""
        if self._ready_at is not None and now - self._ready_at >= STABLE_S:
            self.failures = 0
        self._ready_at = None
        self.failures += 1
        self.retry_at = now + min(FIRST_S * 2 ** min(self.failures - 1, 20), LIMIT_S)

    def ready(self, now: float) -> None:
        """Note that the VM is ready."""
        self._ready_at = now
        self.retry_at = 0.0

    def died(self, now: float) -> None:
        """Note that a ready VM is gone without having been asked to go."""
        if self._ready_at is not None and now - self._ready_at < STABLE_S:
            self.failed(now)
        else:
            self.forget()

    def forget(self) -> None:
        """Note that the VM behaved, or that an operator takes the matter in hand."""
        self.failures, self.retry_at, self._ready_at = 0, 0.0, None

    def wait(self, now: float) -> float:
        """Return for how many seconds no try is allowed."""
        return max(0.0, self.retry_at - now)
