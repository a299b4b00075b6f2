"""Git's blobs and trees as bytes, and what the id of an object is (gitformat-pack(5)); commits.py has the commits.

Trees are edited here rather than by a library because one of them, `jitsu/vm`, has an entry for each VM: with
10,000 of them it is 630 kB long, of which a change touches 20 bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha1
from typing import TYPE_CHECKING, NamedTuple

from jitsu_store.git.steps import PIECE, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jitsu_store.git.steps import Steps

ID_BYTES = 20
Id = bytes
"""An object's name, 20 bytes."""

MAX_DEPTH = 64
"""Levels of directories. Trees are walked by recursion; the keys of a VM have seven parts."""
LARGE_BYTES = 16 * 1024
MAX_LARGE_KEPT = 16
"""Large directories kept in memory. For 10,000 VMs they take some 10 MB, because versions share their index."""
_ENTRY = re.compile(rb"(\d+) ([^\0]+)\0.{20}", re.DOTALL)
_BLOB_MODE = b"100644"
_TREE_MODE = b"40000"
PIECE_OBJECTS = 100
"""Objects that are made between two pauses: a millisecond of work."""
FEW_LEAVES = 4
"""A directory with so few leaves is likely to equal another one."""


class ObjectKind(StrEnum):
    """The kinds of object. Only other programs write tags."""

    BLOB = "blob"
    TREE = "tree"
    COMMIT = "commit"
    TAG = "tag"


_KINDS = {kind: kind.value.encode() for kind in ObjectKind}


class GitObject(NamedTuple):
    """One object. Its id follows from the rest."""

    kind: ObjectKind
    data: bytes
    id: Id


def make(kind: ObjectKind, data: bytes) -> GitObject:
    """Return the object with its id."""
    head = b"%s %d\0" % (_KINDS[kind], len(data))
    if len(data) < LARGE_BYTES:
        return GitObject(kind, data, sha1(head + data, usedforsecurity=False).digest())
    hashed = sha1(head, usedforsecurity=False)
    hashed.update(data)
    return GitObject(kind, data, hashed.digest())


@dataclass(frozen=True)
class Entry:
    """Where a tree's bytes hold an entry's id, and whether that is a tree again."""

    at: int
    is_tree: bool


@dataclass(frozen=True)
class Directory:
    """A tree's bytes with an index; versions that have the same names share the index."""

    raw: bytes
    index: Mapping[str, Entry]

    def id_of(self, name: str) -> Id | None:
        """Return the id of an entry."""
        entry = self.index.get(name)
        return None if entry is None else self.raw[entry.at : entry.at + ID_BYTES]

    def subtree(self, name: str) -> Id | None:
        """Return the id of an entry that is a tree."""
        entry = self.index.get(name)
        return self.id_of(name) if entry is not None and entry.is_tree else None

    def items(self) -> Iterator[tuple[str, Id, bool]]:
        """Yield name, id and whether it is a tree."""
        for name, entry in self.index.items():
            yield name, self.raw[entry.at : entry.at + ID_BYTES], entry.is_tree


EMPTY = Directory(b"", {})


def parse(raw: bytes) -> Directory:
    """Index a tree's bytes. Names that are not UTF-8 get replacement characters."""
    index = {
        match[2].decode("utf-8", "replace"): Entry(match.end() - ID_BYTES, match[1] == _TREE_MODE)
        for match in _ENTRY.finditer(raw)
    }
    return Directory(raw, index)


class Directories:
    """Reads directories by id. Keeps the large ones that were read last, because indexing one takes milliseconds."""

    def __init__(self, load: Callable[[Id], bytes]) -> None:
        """`load` returns the bytes of the tree with an id."""
        self._load = load
        self._kept: OrderedDict[Id, Directory] = OrderedDict()

    def read(self, id: Id | None) -> Directory:
        """Return the directory with an id; for None the one with nothing in it."""
        if id is None:
            return EMPTY
        if id in self._kept:
            self._kept.move_to_end(id)
            return self._kept[id]
        directory = parse(self._load(id))
        self.keep(id, directory)
        return directory

    def keep(self, id: Id, directory: Directory) -> None:
        """Remember a directory."""
        if len(directory.raw) >= LARGE_BYTES:
            self._kept[id] = directory
            if len(self._kept) > MAX_LARGE_KEPT:
                self._kept.popitem(last=False)


def edit(directory: Directory, changes: Mapping[str, tuple[Id, bool] | None]) -> Directory:
    """Return a directory with entries set to (id, is tree) or removed."""
    index = directory.index
    if all(new is not None and name in index and index[name].is_tree == new[1] for name, new in changes.items()):
        raw = bytearray(directory.raw)
        for name, new in changes.items():
            assert new is not None
            raw[index[name].at : index[name].at + ID_BYTES] = new[0]
        return Directory(bytes(raw), index)
    entries = {name: (id, is_tree) for name, id, is_tree in directory.items()}
    for name, new in changes.items():
        if new is None:
            entries.pop(name, None)
        else:
            entries[name] = new
    return parse(_raw(entries))


def _raw(entries: Mapping[str, tuple[Id, bool]]) -> bytes:
    """Return a tree's bytes. Git sorts a tree as if its name ended with a slash."""
    keyed = sorted(
        (name.encode() + b"/" if is_tree else name.encode(), id, is_tree) for name, (id, is_tree) in entries.items()
    )
    return b"".join(
        b"%s %s\0%s" % ((_TREE_MODE, key[:-1], id) if is_tree else (_BLOB_MODE, key, id)) for key, id, is_tree in keyed
    )


def write(
    directories: Directories, root: Directory, changes: Mapping[str, str | None]
) -> tuple[Directory, list[GitObject]]:
    """Return a directory with leaves set or removed (path -> value), and every object below it that this makes.

    A directory with nothing in it is left out, as in all Git trees.
    """
    return at_once(write_steps(directories, root, changes))


def write_steps(
    directories: Directories, root: Directory, changes: Mapping[str, str | None]
) -> Steps[tuple[Directory, list[GitObject]]]:
    """Do what `write` does, in steps."""
    writer = _Writer(directories)
    yield from writer.sort(changes)
    return (yield from writer.write("", root)), writer.made


class _Writer:
    """Makes the objects of one change. Most values of many VMs are the same, and so are the directories with them."""

    def __init__(self, directories: Directories) -> None:
        self.made: list[GitObject] = []
        self._directories = directories
        self._leaves: dict[str, dict[str, str | None]] = {}
        """Directory -> what changes right in it: name -> value."""
        self._inner: dict[str, list[str]] = {}
        """Directory -> the names of the directories in it in which something changes."""
        self._made_before = 0
        """How many objects there were at the latest pause."""
        self._blobs: dict[str, Id] = {}
        self._new: dict[frozenset[tuple[str, str | None]] | None, Id | None] = {}
        """Content of a new directory, if it is small -> its id."""

    def sort(self, changes: Mapping[str, str | None]) -> Steps[None]:
        """Sort changes by the directories that they are in."""
        for number, (path, value) in enumerate(changes.items(), 1):
            above, _, name = path.rpartition("/")
            leaves = self._leaves.get(above)
            if leaves is None:
                leaves = self._leaves[above] = {}
                if above not in self._inner:
                    self._add_directory(above)
            leaves[name] = value
            if number % PIECE == 0:
                yield

    def _add_directory(self, path: str) -> None:
        """Note a directory in the one above it, and so on up to one that is noted already."""
        while path:
            above, _, name = path.rpartition("/")
            is_noted = above in self._inner or above in self._leaves
            self._inner.setdefault(above, []).append(name)
            if is_noted:
                return
            path = above

    def write(self, path: str, old: Directory) -> Steps[Directory]:
        """Return what a directory becomes."""
        return edit(old, (yield from self._changed(path, old)))

    def _changed(self, path: str, old: Directory) -> Steps[dict[str, tuple[Id, bool] | None]]:
        """Make what is below a directory, and return what changes right in it."""
        here: dict[str, tuple[Id, bool] | None] = {
            name: None if value is None else (self._blob(value), False)
            for name, value in self._leaves.get(path, {}).items()
        }
        for name in self._inner.get(path, ()):
            below, before = f"{path}/{name}" if path else name, old.subtree(name)
            if before is None and below not in self._inner:
                id = self._new_directory(self._leaves[below])
            else:
                id = yield from self._subtree(below, before)
            if id is not None:
                here[name] = (id, True)
            elif before is not None:
                here.setdefault(name, None)  # a value may take the place of a directory
            if len(self.made) - self._made_before >= PIECE_OBJECTS:
                self._made_before = len(self.made)
                yield
        return here

    def _blob(self, value: str) -> Id:
        id = self._blobs.get(value)
        if id is None:
            blob = make(ObjectKind.BLOB, value.encode())
            self.made.append(blob)
            id = self._blobs[value] = blob.id
        return id

    def _subtree(self, path: str, old: Id | None) -> Steps[Id | None]:
        """Return the id of a directory below, None if nothing is in it."""
        if old is None:
            here = yield from self._changed(path, EMPTY)
            return self._tree({name: new for name, new in here.items() if new is not None})
        directory = yield from self.write(path, self._directories.read(old))
        if not directory.index:
            return None
        tree = make(ObjectKind.TREE, directory.raw)
        self._directories.keep(tree.id, directory)
        self.made.append(tree)
        return tree.id

    def _new_directory(self, leaves: Mapping[str, str | None]) -> Id | None:
        """Return the id of a directory that was not there and has only leaves, None if nothing is in it."""
        alike = frozenset(leaves.items()) if len(leaves) <= FEW_LEAVES else None
        if alike in self._new:
            return self._new[alike]
        id = self._tree({name: (self._blob(value), False) for name, value in leaves.items() if value is not None})
        if alike is not None:
            self._new[alike] = id
        return id

    def _tree(self, entries: Mapping[str, tuple[Id, bool]]) -> Id | None:
        """Return the id of a directory that was not there, None if nothing is in it."""
        if not entries:
            return None
        tree = make(ObjectKind.TREE, _raw(entries))
        if len(tree.data) >= LARGE_BYTES:
            self._directories.keep(tree.id, parse(tree.data))
        self.made.append(tree)
        return tree.id


class TooLargeError(Exception):
    """A tree in the history is larger than the store reads; the message says how."""


def differing(
    directories: Directories, old: Id | None, new: Id | None, prefix: str = ""
) -> Iterator[tuple[str, Id | None, Id | None]]:
    """Yield (path, blob before, blob after) for each leaf in which two trees differ; only what differs is read.

    Raises TooLargeError for trees that are too deep: the history may have any tree that another program has made.
    """
    if old == new:
        return
    if prefix.count("/") > MAX_DEPTH:
        raise TooLargeError(f"more than {MAX_DEPTH} levels")
    before, after = directories.read(old), directories.read(new)
    was, now = set(before.items()), set(after.items())
    for name in sorted({name for name, _, _ in was ^ now}):
        path = prefix + name
        if before.subtree(name) is not None or after.subtree(name) is not None:
            yield from differing(directories, before.subtree(name), after.subtree(name), path + "/")
        old_blob = None if before.subtree(name) is not None else before.id_of(name)
        new_blob = None if after.subtree(name) is not None else after.id_of(name)
        if old_blob != new_blob:
            yield path, old_blob, new_blob


def find(directories: Directories, root: Id | None, path: str) -> tuple[Id | None, bool]:
    """Return the id at a path, None if there is nothing, and whether it is a tree."""
    found, is_tree = root, True
    for part in path.split("/") if path else ():
        if found is None or not is_tree:
            return None, False
        directory = directories.read(found)
        found, is_tree = directory.id_of(part), directory.subtree(part) is not None
    return found, is_tree
