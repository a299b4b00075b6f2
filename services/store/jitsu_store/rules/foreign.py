"""What another repository may bring into ours: within limits, and nothing that `git fsck --strict` complains about.

What is fetched is kept apart until all of it has been checked. Every tree and commit is checked for its form, because
`git fsck` judges the whole history and not only its latest commit (G6). The tree that is to be merged is also bounded
in depth, in leaves and in bytes, and each leaf is counted in full. Otherwise a "Git bomb" of a few small objects could
describe billions of leaves, or thousands of leaves could share one large blob.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_store.git.objects import ID_BYTES, LARGE_BYTES, MAX_DEPTH, Id, ObjectKind
from jitsu_store.rules.tree import MAX_LEAVES, MAX_TREE_BYTES, MAX_VALUE_CHARACTERS, part_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_OBJECTS = 2_000_000
MAX_BLOB_BYTES = 4 * MAX_VALUE_CHARACTERS
"""UTF-8 has at most four bytes for a character."""
MAX_OBJECT_BYTES = {ObjectKind.BLOB: MAX_BLOB_BYTES, ObjectKind.TREE: 32 * 1024 * 1024, ObjectKind.COMMIT: 1024 * 1024}
_ENTRY = re.compile(rb"(100644|100755|40000) ([^\0/]+)\0(.{20})", re.DOTALL)
_IDENTITY = rb"[^<>\n\0]* <[^<>\n\0]*> (?:0|[1-9][0-9]{0,11}) [+-][0-9]{4}\n"
_COMMIT = re.compile(
    rb"tree ([0-9a-f]{40})\n((?:parent [0-9a-f]{40}\n)*)author "
    + _IDENTITY
    + rb"committer "
    + _IDENTITY
    + rb"(?:[a-zA-Z][^\n\0]*\n(?: [^\n\0]*\n)*)*\n[^\0]*",
)
"""What `git fsck` demands of a commit (fsck.c: verify_headers, fsck_commit, fsck_ident)."""


class ForeignError(Exception):
    """What another repository sends is refused; the message says why."""


@dataclass(frozen=True)
class Tree:
    """A tree that has been checked: its entries, and where the ids of a large one stand."""

    entries: Sequence[tuple[Id, bool]]
    """Id, and whether it is a tree."""
    places: array[int]


class Checker:
    """Checks objects one after the other. `kind_of` says what a referenced object is, None for one that is missing."""

    def __init__(self, kind_of: Callable[[Id], ObjectKind | None]) -> None:
        self._kind_of = kind_of
        self._names: set[bytes] = set()
        """Names that were found good."""

    def size(self, kind: ObjectKind, size: int) -> None:
        """Refuse an object that is too large before it is read."""
        limit = MAX_OBJECT_BYTES.get(kind)
        if limit is None:
            raise ForeignError(f"it has an object of kind {kind}, which a store never has")
        if size > limit:
            raise ForeignError(f"it has a {kind} of {size} bytes; at most {limit} are accepted")

    def commit(self, data: bytes) -> None:
        """Check a commit."""
        match = _COMMIT.fullmatch(data)
        if match is None:
            raise ForeignError(f"it has a commit that is not well formed: {data[:100]!r}")
        self._refers(bytes.fromhex(match[1].decode()), ObjectKind.TREE)
        for line in match[2].splitlines():
            self._refers(bytes.fromhex(line.removeprefix(b"parent ").decode()), ObjectKind.COMMIT)

    def tree(self, data: bytes) -> Tree:
        """Check all of a tree."""
        at, before = 0, b""
        entries: list[tuple[Id, bool]] = []
        places = array("I")
        seen: set[bytes] = set()
        for match in _ENTRY.finditer(data):
            if match.start() != at:
                break
            at = match.end()
            mode, name, id = match.groups()
            is_tree = mode == b"40000"
            key = name + b"/" if is_tree else name
            if key <= before or name in seen:
                raise ForeignError(f"it has a tree whose entries are not in order: {name[:100]!r}")
            before = key
            seen.add(name)
            self._name(name)
            self._refers(id, ObjectKind.TREE if is_tree else ObjectKind.BLOB)
            entries.append((id, is_tree))
            places.append(at - ID_BYTES)
        if at != len(data):
            raise ForeignError(f"it has a tree that is not well formed: {data[at : at + 50]!r}")
        return Tree(entries, places if len(data) >= LARGE_BYTES else array("I"))

    def next_version(self, data: bytes, before: Tree, inserted: Iterable[tuple[int, int]]) -> Tree | None:
        """Check a tree that differs from a checked one only where a delta inserts; returns None if it cannot tell.

        A large tree has thousands of versions, each with a few ids that are new.
        """
        entries = list(before.entries)
        for begin, end in inserted:
            number = bisect_right(before.places, begin) - 1
            if number < 0 or end > before.places[number] + ID_BYTES:
                return None
            place, is_tree = before.places[number], entries[number][1]
            id = data[place : place + ID_BYTES]
            self._refers(id, ObjectKind.TREE if is_tree else ObjectKind.BLOB)
            entries[number] = (id, is_tree)
        return Tree(entries, before.places)

    def _name(self, name: bytes) -> None:
        if name in self._names:
            return
        try:
            fault = part_fault(name.decode())
        except UnicodeDecodeError:
            fault = "is not UTF-8"
        if fault:
            raise ForeignError(f"it has a path with the part {name[:100]!r}, which {fault}")
        self._names.add(name)

    def _refers(self, id: Id, kind: ObjectKind) -> None:
        found = self._kind_of(id)
        if found is not kind:
            what = "is missing" if found is None else f"is a {found}"
            raise ForeignError(f"it refers to a {kind} {id.hex()}, which {what}")


@dataclass(frozen=True)
class Extent:
    """What a tree describes: how many leaves with how many bytes, how deep."""

    leaves: int
    size: int
    depth: int


class Measure:
    """Measures trees, each of them once."""

    def __init__(self, entries: Callable[[Id], Sequence[tuple[Id, bool]]], blob_size: Callable[[Id], int]) -> None:
        self._entries = entries
        self._blob_size = blob_size
        self._measured: dict[Id, Extent] = {}

    def tree(self, id: Id, depth: int = 0) -> Extent:
        """Return what a tree describes; raises ForeignError as soon as it is too much."""
        if id in self._measured:
            return self._measured[id]
        if depth > MAX_DEPTH:
            raise ForeignError(f"its tree has more than {MAX_DEPTH} levels")
        leaves = size = below = 0
        for inner, is_tree in self._entries(id):
            extent = self.tree(inner, depth + 1) if is_tree else Extent(1, self._blob_size(inner), 0)
            leaves, size, below = leaves + extent.leaves, size + extent.size, max(below, extent.depth)
            if leaves > MAX_LEAVES:
                raise ForeignError(f"its tree has more than {MAX_LEAVES} leaves")
            if size > MAX_TREE_BYTES:
                raise ForeignError(f"its tree has more than {MAX_TREE_BYTES} bytes")
        if depth + below + 1 > MAX_DEPTH:
            raise ForeignError(f"its tree has more than {MAX_DEPTH} levels")
        extent = self._measured[id] = Extent(leaves, size, below + 1)
        return extent
