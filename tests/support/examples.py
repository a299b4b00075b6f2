"""How many examples a property is tried with: few in the unit tier, and all of them in `make test-wires`."""

from __future__ import annotations

import os

ALL = os.environ.get("JITSU_EXAMPLES") == "all"
SHARE = 10
FEWEST = 10


def examples(number: int) -> int:
    """Return how many of a property's examples are tried in this run."""
    return number if ALL else max(FEWEST, number // SHARE)
