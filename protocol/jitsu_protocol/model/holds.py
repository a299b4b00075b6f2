"""Holds and keeps: what an operator asks of vmd for a time, beside the configuration.

    jitsu/hold/all       holds all VMs
    jitsu/hold/<uuid>    holds one VM: it is neither started nor stopped automatically
    jitsu/keep/<uuid>    keeps one VM up: it is not stopped because it is idle

Each of them is one leaf of the state tree, `UNTIL BY REASON`: a Unix time in seconds, or 0 for a hold that lasts until
it is released; the identity that asked for it; and the reason, which may be empty. They are apart from the
configuration of VMs, so that `jitsu apply` and `jitsu export` do not touch them, and older releases do not see them. A
leaf that cannot be parsed counts until it is removed, because its author meant to hold or to keep something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HOLD_ROOT = "jitsu/hold"
KEEP_ROOT = "jitsu/keep"
ALL = "all"
MAX_REASON_CHARACTERS = 200
"""The reason is part of a DNS answer, which has little room for text (RFC 8914, section 2)."""


@dataclass(frozen=True)
class Hold:
    """One hold, or one keep."""

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


def path_of(vm: str, root: str = HOLD_ROOT) -> str:
    """Return the path of the hold of one VM, or of the hold of all VMs (ALL); with KEEP_ROOT, of the keep of a VM."""
    return f"{root}/{vm}"


def holds_in(leaves: Mapping[str, str], now: float, root: str = HOLD_ROOT) -> dict[str, Hold]:
    """Return the holds in the leaves below a root that have not ended, by UUID or ALL."""
    start = root + "/"
    found = {path[len(start) :]: Hold.read(text) for path, text in leaves.items() if path.startswith(start)}
    return {vm: hold for vm, hold in found.items() if not hold.is_over(now)}


def hold_of(holds: Mapping[str, Hold], vm: str) -> Hold | None:
    """Return the hold that applies to a VM: its own, or else that of all VMs."""
    return holds.get(vm) or holds.get(ALL)
