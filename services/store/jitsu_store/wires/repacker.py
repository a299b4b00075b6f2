"""The repacker: combines packfiles and writes the snapshot, in a process of its own so that nobody waits for it.

The store starts it (repacker_child.py) with the path of the repository when there is something to do, and writes a line
for each pass: `busy` while commits come, `quiet` when there have been none for a while. The repacker ends when its
standard input does, even in the middle of a pass. Killed at any moment, it leaves at most a temporary file: a new
packfile is on the disk before those that it replaces are removed.

Its memory is bounded (MAX_MEMORY_MB), no matter how many packfiles there are and how large they are. It holds some 200
bytes for each object of a merge, of which there are at most MAX_MERGED_OBJECTS, and it gives the pages of a packfile
back while it goes through them.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap
import os
import select
import sys
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import ObjectType

from jitsu_protocol.model.errors import JitsuError
from jitsu_store.git.files import Landing, pack_directory, pack_name, remove_packs, temporary_pack
from jitsu_store.git.objects import LARGE_BYTES, GitObject, Id, ObjectKind
from jitsu_store.git.packfile import Ids, PackfileReader, PackfileWriter, delta
from jitsu_store.rules.repack_plan import FAN_IN, WORTH, Bases, Packfile, choose
from jitsu_store.wires.disk import DirectoryFiles, open_repository
from jitsu_store.wires.snapshot import write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NICE = 15
MAX_MEMORY_MB = 200
LATEST_KEPT = 4
PAGES_KEPT_BYTES = 16 * 1024 * 1024
"""Pages of a packfile that have been read are given back after this many bytes."""
MAX_CACHED_BYTES = 16 * 1024 * 1024
"""libgit2 keeps up to this much of what it has read from each packfile, until the repository is closed. A merge reads
from 32 packfiles."""
LOOK_EVERY = 256
"""How many objects are merged between two looks at whether the store is still there."""


class AbandonedError(Exception):
    """The store is gone, so what has been written so far is dropped."""


class RepackPass:
    """Merges the packfiles of one repository."""

    def __init__(self, repository: Path, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """`is_wanted` returns whether there is still a store to work for."""
        self._path = repository
        self._directory = pack_directory(repository)
        self._is_wanted = is_wanted

    def work(self, *, quiet: bool) -> int:
        """Merge until nothing is left to do; returns how many packfiles went."""
        gone = 0
        while packs := choose(self._packs(), quiet=quiet):
            with contextlib.closing(
                PackfileMerge(self._path, self._directory, [pack.name for pack in packs], self._is_wanted)
            ) as merge:
                merge.run()
            gone += len(packs)
        return gone

    def save_snapshot(self) -> None:
        """Write the snapshot, which a store reads at its start instead of a tree and a blob for each key."""
        repository = open_repository(self._path, durable=False)
        write_snapshot(repository, DirectoryFiles(self._path, durable=False), repository.head("master"))

    def _packs(self) -> list[Packfile]:
        packs = []
        for index in self._directory.glob("pack-*.idx"):
            if index.with_suffix(".keep").exists():
                continue  # gitrepository-layout(5): nobody may remove it
            with contextlib.suppress(OSError), index.open("rb") as file:
                file.seek(8 + 255 * 4)
                count = int.from_bytes(file.read(4), "big")
                size = index.with_suffix(".pack").stat().st_size
                packs.append(Packfile(index.stem, count, index.stat().st_mtime_ns, size))
        return packs


class PackfileMerge:
    """Makes one packfile of several."""

    def __init__(self, repository: Path, directory: Path, names: list[str], is_wanted: Callable[[], bool]) -> None:
        self._repository = SingleObjects(repository)
        self._directory = directory
        self._names = names
        self._is_wanted = is_wanted
        self._kin = Bases()
        self._latest: OrderedDict[Id, bytes] = OrderedDict()
        self._commit: GitObject | None = None
        self._commit_source = -1
        self._taken = 0
        self._writer: PackfileWriter

    def run(self) -> None:
        """Write the new packfile, bring it to the disk, and remove the old ones."""
        ids = Ids(heapq.merge(*(self._ids(name) for name in self._names)))
        with (
            temporary_pack(self._directory) as (file, path),
            temporary_pack(self._directory) as (index_file, index_path),
        ):
            self._writer = PackfileWriter(file.write, ids)
            for number, name in enumerate(self._names):
                self._copy(name, number)
            index = self._writer.finish()
            index_file.write(index)
            name = pack_name(index)
            landing = Landing()
            landing.add_pack(self._directory, file, path, (index_file, index_path), name)
            landing.land()
        remove_packs(self._directory, [old for old in self._names if old != name])

    def close(self) -> None:
        """Close what libgit2 has open. It has each packfile once, for everybody who has opened the repository."""
        self._repository.close()

    def _ids(self, name: str) -> Iterator[Id]:
        pack = (self._directory / f"{name}.pack").open("rb")
        with pack:
            head = memoryview(pack.read(8))
        yield from PackfileReader(head, memoryview((self._directory / f"{name}.idx").read_bytes())).ids()

    def _copy(self, name: str, source: int) -> None:
        with (self._directory / f"{name}.pack").open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        reader = PackfileReader(memoryview(pages), memoryview((self._directory / f"{name}.idx").read_bytes()))
        given_back = 0
        for id, offset, entry in reader.entries():
            if offset - given_back > PAGES_KEPT_BYTES:
                given_back = offset - offset % mmap.PAGESIZE
                pages.madvise(mmap.MADV_DONTNEED, 0, given_back)
            self._taken += 1
            if not self._taken % LOOK_EVERY and not self._is_wanted():
                raise AbandonedError
            if id in self._writer:
                continue
            if entry.base is not None and entry.is_base_here:  # the base comes before it, so it has been copied
                self._writer.add_copied(id, entry)
                self._kin.copied(id, entry.base)
            elif entry.kind in ("tree", "commit"):
                self._add(GitObject(ObjectKind(entry.kind), zlib.decompress(entry.deflated), id), source)
            elif entry.kind:
                self._writer.add_copied(id, entry)
            else:
                self._unpack(id, source)

    def _unpack(self, id: Id, source: int) -> None:
        """Write a delta from a packfile of another program, whose base is not where ours would be."""
        self._add(self._repository.read(id), source)

    def _add(self, thing: GitObject, source: int) -> None:
        base: tuple[Id, bytes] | None = None
        if thing.kind is ObjectKind.COMMIT:
            base = None if self._commit is None else (self._commit.id, self._commit.data)
            if source != self._commit_source:  # in one source all have the same base, so that no chain gets long
                self._commit, self._commit_source = thing, source
        elif thing.kind is ObjectKind.TREE:
            near = self._kin.base_for(thing.id, thing.data, source)
            base = None if near is None else (near, self._read(near))
            self._remember(thing)
        if base is not None:
            difference = delta(base[1], thing.data)
            if len(difference) < WORTH * len(thing.data):
                self._writer.add_delta(thing.id, base[0], difference)
                return
        self._writer.add_packed(thing)

    def _remember(self, thing: GitObject) -> None:
        """Keep a large tree: the next version will be stored as the difference from it."""
        if len(thing.data) >= LARGE_BYTES:
            self._latest[thing.id] = thing.data
            if len(self._latest) > LATEST_KEPT:
                self._latest.popitem(last=False)

    def _read(self, id: Id) -> bytes:
        return self._latest[id] if id in self._latest else self._repository.read(id).data


class SingleObjects:
    """Reads single objects through libgit2, and does not let it keep much of them.

    An object is at the end of a chain of differences, and libgit2 keeps every version on the way. A small object has
    FAN_IN steps at most. A large one has up to MAX_CHAIN, which fill all that libgit2 keeps for a packfile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._repository = pygit2.Repository(str(path))
        self._cached = 0
        """How many bytes libgit2 may have kept since the repository was opened."""

    def read(self, id: Id) -> GitObject:
        """Return an object; raises KeyError."""
        if self._cached >= MAX_CACHED_BYTES:
            self.close()
            self._repository = pygit2.Repository(str(self._path))
            self._cached = 0
        kind, data = self._repository.read(pygit2.Oid(raw=id))
        self._cached += MAX_CACHED_BYTES if len(data) >= LARGE_BYTES else (FAN_IN + 1) * len(data)
        return GitObject(ObjectKind(ObjectType(kind).name.lower()), bytes(data), id)

    def close(self) -> None:
        """Give the memory back now. pygit2 would do it at some later time, because its objects refer to each other."""
        self._repository.free()


def _is_input_open() -> bool:
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLHUP)
    return not poll.poll(0)


def main() -> None:
    """Do what standard input says."""
    os.nice(NICE)
    pygit2.settings.enable_caching(False)
    pygit2.settings.mwindow_size = pygit2.settings.mwindow_mapped_limit = PAGES_KEPT_BYTES
    repacker = RepackPass(Path(sys.argv[1]), _is_input_open)
    for line in sys.stdin:
        try:
            is_quiet = line.strip() == "quiet"
            repacker.work(quiet=is_quiet)
            if is_quiet:
                repacker.save_snapshot()
        except AbandonedError:
            return
        except (OSError, ValueError, pygit2.GitError, KeyError, JitsuError) as error:
            # The store goes on with many packfiles; the next line is another attempt.
            answer = f"cannot combine the packs: {error}"
        else:
            answer = "done"
        try:
            print(answer, flush=True)
        except BrokenPipeError:
            return  # the store is gone


if __name__ == "__main__":
    main()
