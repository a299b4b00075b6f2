"""What is kept for a booting guest: one frame per connection attempt, bounded per VM and in all (G4)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


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
    _frames: dict[str, OrderedDict[Hashable, bytes]] = field(default_factory=dict)
    _total: int = 0

    def __len__(self) -> int:
        """Return how many frames are kept in all."""
        return self._total

    def keep(self, vm: str, flow: Hashable, frame: bytes) -> Outcome:
        """Keep a frame; `flow` is what makes two frames one attempt (addresses and ports)."""
        frames = self._frames.setdefault(vm, OrderedDict())
        if flow in frames:
            frames[flow] = frame
            return Outcome.REPLACED
        displaced = len(frames) >= self.max_per_vm or self._total >= self.max_total
        if displaced:
            self._drop_oldest(vm if frames else self._fullest())
        frames[flow] = frame
        self._total += 1
        return Outcome.DISPLACED if displaced else Outcome.KEPT

    def take(self, vm: str) -> list[tuple[Hashable, bytes]]:
        """Take out what is kept for a VM, oldest first."""
        frames = self._frames.pop(vm, OrderedDict())
        self._total -= len(frames)
        return list(frames.items())

    def _drop_oldest(self, vm: str) -> None:
        self._frames[vm].popitem(last=False)
        self._total -= 1

    def _fullest(self) -> str:
        """Return the VM that holds most: a flood of one must not cost the others their place."""
        return max(self._frames, key=lambda vm: len(self._frames[vm]))
