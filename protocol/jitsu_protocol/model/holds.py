"""Holds: while one is there, no VM that it is about is started or stopped automatically.

    jitsu/hold/all       for all VMs
    jitsu/hold/<uuid>    for one

Each is one leaf, `UNTIL BY REASON`: seconds since 1970, or 0 for "until it is released"; who asked; and why, which may
be empty. They stand apart from the configuration of a VM, so that `jitsu apply` and `jitsu export` do not touch them,
and older releases do not see them. A leaf that cannot be read holds until it is removed: whoever wrote it meant
something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HOLD_ROOT = "jitsu/hold"
ALL = "all"
MAX_REASON_CHARACTERS = 200
"""It stands in a DNS answer, which has room for few more (RFC 8914, section 2)."""


@dataclass(frozen=True)
class Hold:
    """One hold."""

    until: float = 0.0
    """Seconds since 1970; 0: until it is released."""
    by: str = ""
    reason: str = ""

    @classmethod
    def read(cls, text: str) -> Hold:
        """Return the hold that a leaf describes; never fails."""
        first, _, rest = text.partition(" ")
        by, _, reason = rest.partition(" ")
        try:
            until = float(first)
        except ValueError:
            return cls(reason=text[:MAX_REASON_CHARACTERS])
        ends = until if math.isfinite(until) and until > 0 else 0.0
        return cls(ends, by[:MAX_REASON_CHARACTERS], reason[:MAX_REASON_CHARACTERS])

    def text(self) -> str:
        """Return the leaf."""
        return f"{self.until:.0f} {self.by} {self.reason}".rstrip()

    def is_over(self, now: float) -> bool:
        """Return whether its time is over; `now` is in seconds since 1970."""
        return 0 < self.until <= now


def path_of(vm: str) -> str:
    """Return where the hold of a VM stands, or with ALL that of all VMs."""
    return f"{HOLD_ROOT}/{vm}"


def holds_in(leaves: Mapping[str, str], now: float) -> dict[str, Hold]:
    """Return the holds that leaves below jitsu/hold describe and that are not over, by uuid or ALL."""
    start = HOLD_ROOT + "/"
    found = {path[len(start) :]: Hold.read(text) for path, text in leaves.items() if path.startswith(start)}
    return {vm: hold for vm, hold in found.items() if not hold.is_over(now)}


def hold_of(holds: Mapping[str, Hold], vm: str) -> Hold | None:
    """Return what holds a VM: its own hold, else that of all."""
    return holds.get(vm) or holds.get(ALL)
