"""Holds: as long as a VM is held, it is neither started nor stopped automatically.

    jitsu/hold/all       holds all VMs
    jitsu/hold/<uuid>    holds one VM

Each hold is one leaf of the state tree, `UNTIL BY REASON`: a Unix time in seconds, or 0 for a hold that lasts until it
is released; the identity that asked for it; and the reason, which may be empty. Holds are kept apart from the
configuration of VMs, so that `jitsu apply` and `jitsu export` do not touch them, and older releases do not see them. A
leaf that cannot be parsed holds until it is removed, because its author meant to hold something.
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
"""The reason is part of a DNS answer, which has little room for text (RFC 8914, section 2)."""


@dataclass(frozen=True)
class Hold:
    """One hold."""

    until: float = 0.0
    """Unix time in seconds; 0 if it lasts until it is released."""
    by: str = ""
    reason: str = ""

    @classmethod
    def read(cls, text: str) -> Hold:
        """Return the hold in a leaf; any text is one."""
        first, _, rest = text.partition(" ")
        by, _, reason = rest.partition(" ")
        try:
            until = float(first)
        except ValueError:
            return cls(reason=text[:MAX_REASON_CHARACTERS])
        ends = until if math.isfinite(until) and until > 0 else 0.0
        return cls(ends, by[:MAX_REASON_CHARACTERS], reason[:MAX_REASON_CHARACTERS])

    def text(self) -> str:
        """Return the text of its leaf."""
        return f"{self.until:.0f} {self.by} {self.reason}".rstrip()

    def is_over(self, now: float) -> bool:
        """Return whether it has ended; `now` is Unix time in seconds."""
        return 0 < self.until <= now


def path_of(vm: str) -> str:
    """Return the path of the hold of one VM, or of the hold of all VMs (ALL)."""
    return f"{HOLD_ROOT}/{vm}"


def holds_in(leaves: Mapping[str, str], now: float) -> dict[str, Hold]:
    """Return the holds in the leaves below jitsu/hold that have not ended, by UUID or ALL."""
    start = HOLD_ROOT + "/"
    found = {path[len(start) :]: Hold.read(text) for path, text in leaves.items() if path.startswith(start)}
    return {vm: hold for vm, hold in found.items() if not hold.is_over(now)}


def hold_of(holds: Mapping[str, Hold], vm: str) -> Hold | None:
    """Return the hold that applies to a VM: its own, or else that of all VMs."""
    return holds.get(vm) or holds.get(ALL)
