"""What readers of master see: what has landed, with the statistics that wait for their commit.

The tree in memory is ahead of that: it has the changes that are being decided or are on their way to the disk. Where it
is, readers see the value from before (hidden.py).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import VM_ROOT
from jitsu_store.rules import tree
from jitsu_store.rules.validate import MAX_PUBLISHED_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_store.rules.batch import Standing
    from jitsu_store.rules.statistics import PendingStatistics

PAGE_BYTES = MAX_PUBLISHED_BYTES
"""A page is full when it has so much, however few leaves that are."""


@dataclass
class Page:
    """Some of the leaves below a path: all of each name."""

    leaves: dict[str, str] = field(default_factory=dict)
    upto: str = ""
    """The last name right below the path that this page has; "" if this is the last page."""
    left_out: dict[str, int] = field(default_factory=dict)
    """VMs that are too large for any page: UUID -> bytes."""


class View:
    """Master, for readers."""

    def __init__(self, standing: Standing, statistics: PendingStatistics) -> None:
        self._standing = standing
        self._tree = standing.state.tree
        self._statistics = statistics

    def value(self, path: str) -> str | None:
        """Return the value at a path, None if there is none."""
        value = self._statistics.get(path)
        if value is not None:
            return value
        hidden = self._standing.hidden
        return hidden[path] if path in hidden else self._tree.get(path)

    def below(self, prefix: str) -> dict[str, str]:
        """Return the leaves at or below a path."""
        unlike_the_tree = self._standing.hidden.below(prefix) | self._statistics.below(prefix)
        return _as_it_was(self._tree.below(prefix), unlike_the_tree)

    def page(self, prefix: str, after: str, limit: int) -> Page:
        """Return some of the leaves below a path: the names right below it that come after one, in their order."""
        start = f"{prefix}/" if prefix else ""
        hidden, waiting = self._standing.hidden, dict[str, dict[str, str | None]]()
        for path, value in self._statistics.below(prefix).items():
            waiting.setdefault(path.removeprefix(start).partition("/")[0], {})[path] = value
        names = self._tree.sorted_names_below(prefix)
        others = {*hidden.names_below(prefix), *waiting}
        if any(name not in self._tree.names_below(prefix) for name in others):
            names = sorted({*names, *others})
        page, size = Page(), 0
        for name in islice(names, bisect_right(names, after), None):
            found = self._tree.below(start + name)
            if name in others:
                found = _as_it_was(found, hidden.below(start + name) | waiting.get(name, {}))
            more = tree.size_of(found)
            if len(page.leaves) >= limit or (page.leaves and size + more > PAGE_BYTES):
                page.upto = after
                return page
            after = name
            if more > PAGE_BYTES and prefix == VM_ROOT:
                # It was written before there was a limit, and must not keep the others from those who ask.
                page.left_out[name] = more
                continue
            page.leaves |= found
            size += more
        return page


def _as_it_was(leaves: dict[str, str], before: Mapping[str, str | None]) -> dict[str, str]:
    """Return leaves with the values that they had before, None for those that were not there."""
    for path, value in before.items():
        if value is None:
            leaves.pop(path, None)
        else:
            leaves[path] = value
    return leaves
