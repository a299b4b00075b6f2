"""How long a replica may answer without asking vmd.

While the reaper counts on a replica, it stops no VM before that replica has honoured the drain. So a replica answers
warm only from its first report that was acknowledged on, and for `lease_s` after the last one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Lease:
    """The lease of one replica."""

    lease_s: float
    is_registered: bool = False
    """A report was acknowledged."""
    heard_at: float = 0.0
    """When the report was sent that was acknowledged last: the lease counts from then."""

    def renew(self, sent_at: float) -> None:
        """Note that the reaper has acknowledged a report that was sent then."""
        self.is_registered = True
        self.heard_at = max(self.heard_at, sent_at)

    def holds(self, now: float) -> bool:
        """Return whether the reaper still counts on this replica, so that no VM can be stopped unseen (G3)."""
        return self.is_registered and now < self.heard_at + self.lease_s
