"""Three-way merge of leaves, with a rule per kind of key.

    kind                                            both sides changed it
    counter    jitsu/stats/**/total_*               the changes add up
    timestamp  jitsu/stats/**/*_ts                  the later one
    all else: configuration                         refused, unless both made the same of it

What only one side has changed is taken from that side. A statistic that one side removed and the other changed stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import STATS_ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_store.rules.tree import Changes


@dataclass(frozen=True)
class Conflicting:
    """A value that both sides have changed, each in its way."""

    path: str
    base: str | None
    ours: str | None
    theirs: str | None


@dataclass
class Merged:
    """What to change on our side."""

    changes: Changes = field(default_factory=dict)
    conflicts: list[Conflicting] = field(default_factory=list)


def merge(theirs: Mapping[str, tuple[str | None, str | None]], ours: Callable[[str], str | None]) -> Merged:
    """Merge: `theirs` is path -> (value at the base, value on their branch) where they differ; `ours` our values."""
    merged = Merged()
    for path, (base, new) in theirs.items():
        mine = ours(path)
        if mine == new:
            continue
        if mine == base:
            merged.changes[path] = new
            continue
        try:
            result = _both_changed(path, base, mine, new)
        except ValueError:
            merged.conflicts.append(Conflicting(path, base, mine, new))
        else:
            if result != mine:
                merged.changes[path] = result
    return merged


def _both_changed(path: str, base: str | None, ours: str | None, theirs: str | None) -> str | None:
    """Return what becomes of a value that both sides have changed; ValueError if nobody can say."""
    name = path.rpartition("/")[2]
    if not path.startswith(STATS_ROOT + "/"):
        raise ValueError("configuration")
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    if name.startswith("total_"):
        return str(int(ours) + int(theirs) - int(base or "0"))
    if name.endswith("_ts"):
        return max(ours, theirs, key=float)
    raise ValueError("no rule for this statistic")
