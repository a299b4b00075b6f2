"""What Synjitsu keeps for a booting guest, bounded per VM and in all (G4).

A connection attempt is one frame: when a client sends its SYN again, the later SYN replaces the earlier one in its
place. Datagrams are different: two with the same addresses and ports are two datagrams (a resolver asks for A and AAAA
from one socket), so each is kept, and they come out in the order in which they came.

A VM that has reached its own limit of frames loses one of them. When the limit for all VMs is reached, the one
that has the most frames loses one, whoever the new frame is for: a VM does not lose its only frame while another has
two. Of that VM the oldest frame goes of the flow that has the most frames, and of all flows the oldest frame if none
has more than one. So a client that sends a stream of datagrams loses its own, and not the SYNs of others.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from jitsu_synjitsu.rules.frames import Seen


class Item(NamedTuple):
    """A frame that is kept."""

    frame: bytes
    seen: Seen
    """What is in it."""
    at: float = 0.0
    """When it came."""


@dataclass
class _OfVm:
    """What is kept for one VM, oldest first."""

    items: OrderedDict[int, tuple[Hashable, Item]] = field(default_factory=OrderedDict)
    attempts: dict[Hashable, int] = field(default_factory=dict)
    """Flow -> number of its only frame, for flows of which the latest frame replaces the one before."""
    sizes: Counter[Hashable] = field(default_factory=Counter)
    """Flow -> how many frames of it are kept."""

    def add(self, number: int, flow: Hashable, item: Item, *, replaces: bool) -> None:
        self.items[number] = (flow, item)
        self.sizes[flow] += 1
        if replaces:
            self.attempts[flow] = number

    def remove(self, number: int) -> None:
        flow, _ = self.items.pop(number)
        self.attempts.pop(flow, None)
        self.sizes[flow] -= 1
        if not self.sizes[flow]:
            del self.sizes[flow]

    def oldest_of_largest(self) -> int:
        """Return the frame that is dropped first."""
        if len(self.sizes) == len(self.items):
            return next(iter(self.items))
        largest = max(self.sizes, key=self.sizes.__getitem__)
        return next(number for number, (flow, _) in self.items.items() if flow == largest)


@dataclass
class _Sizes:
    """The VMs by how many frames are kept for each: the one with the most is found without looking at the others."""

    _vms: dict[int, dict[str, None]] = field(default_factory=dict, init=False)
    """Number of frames -> VMs, without those that have none; in the order in which they came to have it."""
    _most: int = field(default=0, init=False)

    def change(self, vm: str, before: int, now: int) -> None:
        """Note that a VM has another number of frames than before."""
        if before:
            self._vms[before].pop(vm)
            if not self._vms[before]:
                del self._vms[before]
        if now:
            self._vms.setdefault(now, {})[vm] = None
            self._most = max(self._most, now)
        while self._most and self._most not in self._vms:
            self._most -= 1

    def largest(self, preferred: str, own: int) -> str:
        """Return the VM that has the most; the preferred one, which has `own`, if none has more."""
        return preferred if own == self._most else next(iter(self._vms[self._most]))


@dataclass
class Kept:
    """All frames that are kept."""

    max_per_vm: int
    max_total: int
    displaced: int = 0
    """How many were dropped for others, in all."""
    _vms: dict[str, _OfVm] = field(default_factory=dict, init=False)
    _sizes: _Sizes = field(default_factory=_Sizes, init=False)
    _total: int = field(default=0, init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)

    def __len__(self) -> int:
        """Return how many frames are kept in all."""
        return self._total

    def keep(self, vm: str, flow: Hashable, item: Item, *, replaces: bool) -> None:
        """Keep a frame.

        `flow` is its kind, addresses and ports; `replaces` says that the latest frame of a flow stands for all of them,
        as with the SYNs of one connection attempt: it takes the place of the first. If too much is kept, an older frame
        is dropped, of the VM that has the most.
        """
        kept = self._vms.setdefault(vm, _OfVm())
        if replaces and flow in kept.attempts:
            kept.items[kept.attempts[flow]] = (flow, item)
            return
        size = len(kept.items)
        is_full = size >= self.max_per_vm
        if is_full or self._total >= self.max_total:
            self.displaced += 1
            self._drop_one(vm if is_full else self._sizes.largest(vm, size))
        size = len(kept.items)
        kept.add(next(self._numbers), flow, item, replaces=replaces)
        self._vms[vm] = kept  # its last frame may have been the one that was dropped
        self._sizes.change(vm, size, size + 1)
        self._total += 1

    def take(self, vm: str) -> list[tuple[Hashable, Item]]:
        """Take out what is kept for a VM, oldest first."""
        return self.take_if(vm, lambda _: True)

    def take_if(self, vm: str, wanted: Callable[[Item], bool]) -> list[tuple[Hashable, Item]]:
        """Take out some of what is kept for a VM, oldest first."""
        kept = self._vms.get(vm, _OfVm())
        size = len(kept.items)
        taken = [(number, flow, item) for number, (flow, item) in kept.items.items() if wanted(item)]
        for number, _, _ in taken:
            kept.remove(number)
        self._total -= len(taken)
        self._sizes.change(vm, size, len(kept.items))
        if not kept.items:
            self._vms.pop(vm, None)
        return [(flow, item) for _, flow, item in taken]

    def of(self, vm: str) -> Iterable[Item]:
        """Return what is kept for a VM, oldest first."""
        return [item for _, item in self._vms.get(vm, _OfVm()).items.values()]

    def _drop_one(self, vm: str) -> None:
        kept = self._vms[vm]
        kept.remove(kept.oldest_of_largest())
        self._total -= 1
        self._sizes.change(vm, len(kept.items) + 1, len(kept.items))
        if not kept.items:
            del self._vms[vm]
