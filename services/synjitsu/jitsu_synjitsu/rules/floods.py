"""VMs that boot and are sent more than can be looked at without losing the frames of others.

What is sent to each VM is counted for a quarter of a second at a time. Of a VM that was sent too much one frame of
SAMPLE is seen from then on (filter.py), until a count shows that the flood is over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jitsu_synjitsu.rules.filter import SAMPLE

FLOOD_PACKETS = 1000
"""To one VM in a count."""


@dataclass
class Floods:
    """Those of one bridge."""

    total: int = 0
    """How often a VM was flooded."""
    flooded: set[str] = field(default_factory=set)
    """VMs of which a sample is seen."""
    _packets: Counter[str] = field(default_factory=Counter, init=False)

    def count(self, vm: str) -> bool:
        """Count a packet to a VM; return whether a flood begins."""
        self._packets[vm] += 1
        if self._packets[vm] <= FLOOD_PACKETS or vm in self.flooded:
            return False
        self.flooded.add(vm)
        self.total += 1
        return True

    def begin_count(self) -> bool:
        """Begin another count; return whether a flood is over."""
        over = {vm for vm in self.flooded if self._packets[vm] * SAMPLE < FLOOD_PACKETS}
        self.flooded -= over
        self._packets.clear()
        return bool(over)
