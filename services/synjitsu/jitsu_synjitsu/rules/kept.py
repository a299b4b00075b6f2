"""What is kept for a booting guest: one frame per connection attempt, bounded per VM and in all (G4)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from jitsu_synjitsu.rules.frames import Seen

Item = tuple[bytes, "Seen"]
"""A frame, and what is in it."""


class Outcome(StrEnum):
    """What became of a frame."""

    KEPT = "kept"
    REPLACED = "replaced"
    """It is the same attempt, sent again: the latest frame counts, in the place of the first."""
    DISPLACED = "displaced"
    """Kept, and an older one was dropped for it."""


@dataclass
class Kept:
    """All frames that are kept."""

    max_per_vm: int
    max_total: int
    displaced: int = 0
    """How many were dropped for others, in all."""
    _items: dict[str, OrderedDict[Hashable, Item]] = field(default_factory=dict)
    _total: int = 0

    def __len__(self) -> int:
        """Return how many frames are kept in all."""
        return self._total

    def keep(self, vm: str, flow: Hashable, item: Item) -> Outcome:
        """Keep a frame; `flow` is what makes two frames one attempt (addresses and ports)."""
        items = self._items.setdefault(vm, OrderedDict())
        if flow in items:
            items[flow] = item
            return Outcome.REPLACED
        displaced = len(items) >= self.max_per_vm or self._total >= self.max_total
        if displaced:
            self.displaced += 1
            self._drop_oldest(vm if items else self._fullest())
        items[flow] = item
        self._total += 1
        return Outcome.DISPLACED if displaced else Outcome.KEPT

    def take(self, vm: str) -> list[tuple[Hashable, Item]]:
        """Take out what is kept for a VM, oldest first."""
        return self.take_if(vm, lambda _: True)

    def take_if(self, vm: str, wanted: Callable[[Item], bool]) -> list[tuple[Hashable, Item]]:
        """Take out some of what is kept for a VM, oldest first."""
        items = self._items.get(vm, OrderedDict())
        taken = [(flow, item) for flow, item in items.items() if wanted(item)]
        for flow, _ in taken:
            del items[flow]
        self._total -= len(taken)
        if not items:
            self._items.pop(vm, None)
        return taken

    def of(self, vm: str) -> Iterable[Item]:
        """Return what is kept for a VM, oldest first."""
        return self._items.get(vm, OrderedDict()).values()

    def _drop_oldest(self, vm: str) -> None:
        self._items[vm].popitem(last=False)
        self._total -= 1

    def _fullest(self) -> str:
        """Return the VM that holds most: a flood of one must not cost the others their place."""
        return max(self._items, key=lambda vm: len(self._items[vm]))
