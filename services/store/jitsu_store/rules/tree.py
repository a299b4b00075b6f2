"""The state tree in memory: which paths it may have, what is below a path, and which path somebody may have meant."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from jitsu_store.git.objects import MAX_DEPTH
from jitsu_store.git.steps import PIECE, at_once

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from jitsu_protocol.messages import Change
    from jitsu_store.git.steps import Steps

MAX_PATH_CHARACTERS = 1024
MAX_COMPONENT_CHARACTERS = 255
MAX_LEAVES = 1_000_000
MAX_TREE_BYTES = 128 * 1024 * 1024
"""All leaves together, each counted in full: ten times what 10,000 VMs with 12 keys and their statistics need."""
MAX_NAMES_SHOWN = 8
MAX_NAMES_COMPARED = 500
"""Comparing a UUID with 10,000 others takes half a second, during which the store would answer nobody."""
MAX_VALUE_CHARACTERS = 1024 * 1024  # the XML of a whole libvirt domain is a tenth of that

_LIKE_GIT = re.compile(r"\.git|gi[^~]*~[0-9]", re.IGNORECASE)

TOPICS = {"vm": "jitsu/vm/", "stats": "jitsu/stats/"}
"""Topic of a feed -> the paths whose changes it carries."""

MAX_SORTED_KEPT = 8
"""Directories whose names are kept sorted. Services read two of them page by page."""
KEPT_PARTS = 65_536
"""Parts of paths that were checked, each with what is wrong with it. VMs have the same keys, so most come again."""
ZONES_FROM = ("jitsu/vm/", "jitsu/dns/")
"""A change below one of these makes a new version of the DNS zones."""

Leaves = dict[str, str]
Changes = dict[str, str | None]
"""Path -> new value; None removes it."""
Node = dict[str, "Node | str"]


def clean(path: str) -> str:
    """Return a path without the slashes around it."""
    return path.strip("/")


def path_fault(path: str) -> str:
    """Return why this cannot be the path of a leaf (the rules of Git's trees, and our own limits), or nothing."""
    if not path or len(path) > MAX_PATH_CHARACTERS:
        return f"a path has 1 to {MAX_PATH_CHARACTERS} characters"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"{path[:100]!r} has more than {MAX_DEPTH} parts"
    for part in parts:
        if fault := part_fault(part):
            return f"{path!r} has the part {part[:100]!r}, which {fault}"
    return ""


@lru_cache(KEPT_PARTS)
def part_fault(part: str) -> str:
    """Return why this cannot be a part of a path, or nothing: what file systems or `git fsck --strict` refuse.

    Git refuses `.git`, `.gitmodules` and their like in every form in which a file system may take them for those:
    NTFS ignores dots and blanks at the end, what follows a colon, and has short names such as `git~1`; HFS+ ignores
    characters that cannot be printed. Any name that such a file system may take for one that begins with `.git` is
    refused here.
    """
    if part in ("", ".", "..") or len(part) > MAX_COMPONENT_CHARACTERS:
        return "cannot be a file name"
    if not part.isprintable():
        return "has a character that cannot be printed"
    if any(_LIKE_GIT.match(piece) for piece in part.split("\\")):
        return "Git, or a file system, takes for a file of its own"
    return ""


def size_of(leaves: Mapping[str, str | None]) -> int:
    """Return how many bytes leaves have, paths and values; it may be a little less if they are not ASCII."""
    return sum(len(path) + len(value or "") for path, value in leaves.items())


def is_below(path: str, prefix: str) -> bool:
    """Say whether a path is the prefix, or below it; everything is below ""."""
    return not prefix or path == prefix or path.startswith(prefix + "/")


class LeafTree:
    """The leaves of one revision, in memory."""

    def __init__(self, leaves: Mapping[str, str] | None = None) -> None:
        self._root: Node = {}
        self._count = 0
        self._sorted: dict[str, list[str]] = {}
        """Path -> the names right below it, sorted."""
        self.put(dict(leaves or {}))

    @classmethod
    def of(cls, root: Node, count: int) -> LeafTree:
        """Return the tree that has this root and this many leaves."""
        made = cls()
        made._root, made._count = root, count
        return made

    @property
    def root(self) -> Node:
        """The whole tree, one dictionary for each directory; do not change it."""
        return self._root

    def __len__(self) -> int:
        """Return the number of leaves."""
        return self._count

    def get(self, path: str) -> str | None:
        """Return the value at a path, None if there is none."""
        node = self._at(path)
        return node if isinstance(node, str) else None

    def below(self, prefix: str = "") -> Leaves:
        """Return the leaf at a path and all leaves below it."""
        prefix = clean(prefix)
        node = self._at(prefix) if prefix else self._root
        if node is None:
            return {}
        if isinstance(node, str):
            return {prefix: node}
        leaves: Leaves = {}
        _collect(node, prefix + "/" if prefix else "", leaves)
        return leaves

    def names_below(self, prefix: str) -> Collection[str]:
        """Return the names right below a path."""
        node = self._at(prefix) if prefix else self._root
        return node if isinstance(node, dict) else ()

    def sorted_names_below(self, prefix: str) -> Sequence[str]:
        """Return the names right below a path, sorted. They are kept for the next page until a leaf comes or goes."""
        if prefix not in self._sorted:
            if len(self._sorted) >= MAX_SORTED_KEPT:
                self._sorted.clear()
            self._sorted[prefix] = sorted(self.names_below(prefix))
        return self._sorted[prefix]

    def blocked(self, path: str) -> str:
        """Return why there can be no leaf at this path (one is above it, or some are below it), or nothing."""
        node: Node | str | None = self._root
        parts = path.split("/")
        for depth, part in enumerate(parts):
            if isinstance(node, str):
                return f"{'/'.join(parts[:depth])} is a value, so nothing can be below it"
            if node is None:
                return ""
            node = node.get(part)
        return f"{path} has values below it, so it cannot be one" if isinstance(node, dict) else ""

    def nearest(self, path: str) -> str:
        """Return a hint that names the existing path most like this one."""
        node: Node | str = self._root
        found: list[str] = []
        for part in path.split("/"):
            if isinstance(node, str):
                break
            close = [part] if part in node else _alike(part, node)
            if not close:
                break
            found.append(close[0])
            node = node[close[0]]
        most_like = "/".join(found)
        if most_like and path.startswith(most_like + "/") and isinstance(node, dict):
            shown = ", ".join(sorted(node)[:MAX_NAMES_SHOWN]) + (", ..." if len(node) > MAX_NAMES_SHOWN else "")
            return f"{most_like} has {shown}"
        return f"did you mean {most_like}?" if most_like else ""

    def put(self, changes: Mapping[str, str | None]) -> tuple[Changes, list[str]]:
        """Make changes, removals first. Return what undoes them, and why some could not be made."""
        return at_once(self.put_steps(changes))

    def put_steps(self, changes: Mapping[str, str | None]) -> Steps[tuple[Changes, list[str]]]:
        """Do what `put` does, in steps."""
        undo: Changes = {}
        reasons = []
        for number, (path, value) in enumerate(changes.items(), 1):
            if value is None and (old := self.get(path)) is not None:
                undo[path] = old
                self._remove(path)
            if number % PIECE == 0:
                yield
        above, holder = "", self._root
        for number, (path, value) in enumerate(changes.items(), 1):
            if number % PIECE == 0:
                yield
                above, holder = "", self._root  # another change may have removed the directory
            if value is None:
                continue
            directory, _, name = path.rpartition("/")
            if directory != above:  # leaves of one directory mostly come one after the other
                found = self._directory(directory)
                if found is None:
                    reasons.append(self.blocked(path))
                    continue
                above, holder = directory, found
            before = holder.get(name)
            if isinstance(before, dict):
                reasons.append(self.blocked(path))
                continue
            undo[path] = before
            holder[name] = value
            if before is None:
                self._count += 1
                self._sorted.clear()
        return undo, reasons

    def values(self, paths: Iterable[str]) -> Changes:
        """Return the value at each of these paths, None where there is none."""
        found: Changes = {}
        above, holder = "", self._root
        for path in paths:
            directory, _, name = path.rpartition("/")
            if directory != above:
                node = self._at(directory) if directory else self._root
                above, holder = directory, node if isinstance(node, dict) else {}
            value = holder.get(name)
            found[path] = value if isinstance(value, str) else None
        return found

    def _directory(self, path: str) -> Node | None:
        """Return the directory at a path, made if nothing is there; None if a value is in its way."""
        node = self._root
        for part in path.split("/") if path else ():
            inner = node.get(part)
            if inner is None:
                inner = node[part] = {}
            elif isinstance(inner, str):
                return None
            node = inner
        return node

    def _at(self, path: str) -> Node | str | None:
        node: Node | str | None = self._root
        for part in path.split("/"):
            if not isinstance(node, dict):
                return None
            node = node.get(part)
        return node

    def _remove(self, path: str) -> None:
        node = self._root
        way: list[tuple[Node, str]] = []
        for part in path.split("/"):
            way.append((node, part))
            inner = node[part]
            if isinstance(inner, dict):
                node = inner
        for holder, part in reversed(way):
            if not holder[part] or isinstance(holder[part], str):
                del holder[part]
            if holder:
                break
        self._count -= 1
        self._sorted.clear()


def _alike(part: str, node: Node) -> list[str]:
    """Return the name most like this one. If there are very many, only those with the same beginning are compared."""
    names = node if len(node) <= MAX_NAMES_COMPARED else [name for name in node if name[:4] == part[:4]]
    return difflib.get_close_matches(part, list(names)[:MAX_NAMES_COMPARED], n=1, cutoff=0.5)


def _collect(node: Node, prefix: str, leaves: Leaves) -> None:
    """Add the leaves of a node. This is not a generator, because each service asks for all 120,000 of them."""
    for name, inner in node.items():
        if isinstance(inner, str):
            leaves[prefix + name] = inner
        else:
            _collect(inner, f"{prefix}{name}/", leaves)


def wanted(changes: Iterable[Change]) -> Changes:
    """Return what a list of changes asks for; the last one for each path counts."""
    return {clean(change.path): change.value for change in changes}
