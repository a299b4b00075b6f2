"""Which packfiles become one, and which earlier object a tree is stored as a difference from.

Each commit makes a packfile. Packfiles are in tiers by how many objects they hold, each tier `FAN_IN` times the one
below. As many of one tier become one of the next, so each object is written again once per tier and no more. While
nobody writes, what is left over is combined as well. The largest packfile is written again only for enough that is new,
counted in objects or in bytes: a commit of statistics has few objects, but among them is a whole tree of all VMs.

What is a difference already is copied as it is. A merge unpacks only what its sources hold whole: one version of each
tree for each source. A large tree becomes the difference from its latest version, and after `MAX_CHAIN` steps from a
much earlier one, so that no chain takes long to follow. A small tree becomes the difference from a version in an
earlier source.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_store.git.objects import LARGE_BYTES, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitsu_store.git.objects import Id

FAN_IN = 32
MAX_MERGED_OBJECTS = 400_000
MAX_MERGED_BYTES = 2**30
"""A merge holds some 200 bytes in memory for each object, and a packfile has a largest size. Larger ones stay as they
are."""
WORTH_THE_LARGEST = 8
"""The largest packfile is written again for an eighth of it, so that each byte is written again eight times at most."""
WORTH = 0.7
"""A difference is kept if it is smaller than that share of the whole."""
MAX_CHAIN = 1000
"""Steps from a large tree to the last one that is not based on its predecessor: 50 ms to read, for 10,000 VMs."""
KEYS = 4
SAMPLES = 9
SAMPLE_BYTES = 40


@dataclass(frozen=True)
class Packfile:
    """One packfile of the repository, as the choice sees it."""

    name: str
    objects: int
    age: float
    """Sorts packfiles by when they were written, oldest first."""
    size: int = 0
    """In bytes."""

    @property
    def tier(self) -> int:
        """Return its tier."""
        tier, limit = 0, FAN_IN
        while self.objects >= limit:
            tier, limit = tier + 1, limit * FAN_IN
        return tier


def choose(packs: Iterable[Packfile], *, quiet: bool) -> list[Packfile]:
    """Return the packfiles that should become one now, oldest first; none if there is nothing to do.

    `quiet` says that nobody writes.
    """
    movable = [pack for pack in packs if pack.objects < MAX_MERGED_OBJECTS // 2 and pack.size < MAX_MERGED_BYTES // 2]
    for tier in sorted({pack.tier for pack in movable}):
        alike = sorted((pack for pack in movable if pack.tier == tier), key=lambda pack: pack.age)
        if len(alike) >= FAN_IN:
            return _within(alike)
    if not quiet or len(movable) < 2:
        return []
    largest = max(movable, key=lambda pack: pack.objects)
    rest = [pack for pack in movable if pack is not largest]
    if (
        sum(pack.objects for pack in rest) < largest.objects / WORTH_THE_LARGEST
        and sum(pack.size for pack in rest) <= largest.size / WORTH_THE_LARGEST
    ):
        movable = rest
    return _within(sorted(movable, key=lambda pack: pack.age)) if len(movable) > 1 else []


def _within(packs: Sequence[Packfile]) -> list[Packfile]:
    taken: list[Packfile] = []
    objects = size = 0
    for pack in packs:
        objects, size = objects + pack.objects, size + pack.size
        if objects > MAX_MERGED_OBJECTS or size > MAX_MERGED_BYTES:
            break
        taken.append(pack)
    return taken if len(taken) > 1 else []


@dataclass
class _Chain:
    """Versions of one large tree in the packfile that is being written."""

    anchor: Id
    latest: Id


@dataclass
class Bases:
    """Says for each tree of a packfile that is being written which earlier tree to store it as a difference from."""

    _owners: dict[int, Id] = field(default_factory=dict)
    """Hash of what versions of a tree share -> the latest version that had it."""
    _source: dict[Id, tuple[int, int]] = field(default_factory=dict)
    """Small tree that later ones may be based on -> the source that it came from, how many steps it is from a whole."""
    _chains: dict[Id, _Chain] = field(default_factory=dict)
    _steps: dict[Id, int] = field(default_factory=dict)
    """Large tree -> steps to its chain's anchor."""

    def base_for(self, id: Id, data: bytes, source: int) -> Id | None:
        """Return the base for a tree that is held whole in the source of that number; None to keep it whole."""
        keys = _keys(data)
        votes = Counter(owner for key in keys if (owner := self._owners.get(key)) is not None)
        near = next((owner for owner, count in votes.most_common(1) if 2 * count >= len(keys)), None)
        large = len(data) >= LARGE_BYTES
        base = self._large(id, near) if large else self._small(id, near, source)
        if large or id in self._source:
            self._owners |= dict.fromkeys(keys, id)
        return base

    def copied(self, id: Id, base: Id) -> None:
        """Note a tree that was copied as a difference."""
        if base in self._chains:
            self._follow(id, base)

    def _large(self, id: Id, near: Id | None) -> Id | None:
        if near is None or near not in self._chains:
            self._chains[id], self._steps[id] = _Chain(id, id), 0
            return None
        chain = self._chains[near]
        base = chain.latest
        if self._steps[base] >= MAX_CHAIN:
            base, chain.anchor = chain.anchor, id
        self._follow(id, base)
        if chain.anchor == id:
            self._steps[id] = 0
        return base

    def _follow(self, id: Id, base: Id) -> None:
        chain = self._chains[id] = self._chains[base]
        chain.latest, self._steps[id] = id, self._steps[base] + 1

    def _small(self, id: Id, near: Id | None, source: int) -> Id | None:
        if near is None or near not in self._source:
            self._source[id] = (source, 0)
            return None
        its_source, steps = self._source[near]
        if its_source != source:
            if steps >= FAN_IN:
                self._source[id] = (source, 0)
                return None
            self._source[id] = (source, steps + 1)
        return near


def _keys(data: bytes) -> list[int]:
    """Return hashes of what versions of one tree share: entries, or places in a large one.

    A tree that has less than half of them in common with another is not its next version. To base it on that one would
    save little, and hide it from the next merge, in which its own next version may come.
    """
    if len(data) >= LARGE_BYTES:
        places = (len(data) * n // SAMPLES for n in range(SAMPLES))
        return [hash(data[at : at + SAMPLE_BYTES]) for at in places]
    entries = sorted(parse(data).items(), key=lambda entry: not entry[2])  # directories identify it best
    return [hash((name, id)) for name, id, _ in entries[:KEYS]]
