"""Brings packs together: a process of its own, so that neither reads nor writes of the store wait for it.

The store starts it beside itself with the repository's path, and writes a line when there may be something to do:
`busy` after commits, `quiet` when there have been none for a while. It ends when its standard input does. Killed at
any moment it leaves at most a temporary file: a new pack is on the disk before those that it replaces are removed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import zlib
from collections import OrderedDict
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

from jitsu_store.rules.objects import LARGE_BYTES, GitObject, Id, Kind
from jitsu_store.rules.pack import PackReader, PackWriter, delta
from jitsu_store.rules.packing import WORTH, Kin, Pack, choose
from jitsu_store.wires.files import Landing, pack_directory, pack_name, temporary_pack

NICE = 15
LATEST_KEPT = 4


class Packer:
    """Merges the packs of one repository."""

    def __init__(self, repository: Path) -> None:
        self._path = repository
        self._directory = pack_directory(repository)

    def work(self, *, quiet: bool) -> int:
        """Merge until nothing is left to do; returns how many packs went."""
        gone = 0
        while packs := choose(self._packs(), quiet=quiet):
            Merge(self._path, self._directory, [pack.name for pack in packs]).run()
            gone += len(packs)
        return gone

    def _packs(self) -> list[Pack]:
        packs = []
        for index in self._directory.glob("pack-*.idx"):
            if index.with_suffix(".keep").exists():
                continue  # gitrepository-layout(5): nobody may remove it
            with contextlib.suppress(OSError), index.open("rb") as file:
                file.seek(8 + 255 * 4)
                count = int.from_bytes(file.read(4), "big")
                packs.append(Pack(index.stem, count, index.stat().st_mtime_ns))
        return packs


class Merge:
    """Makes one pack of several."""

    def __init__(self, repository: Path, directory: Path, names: list[str]) -> None:
        self._repository = pygit2.Repository(str(repository))
        self._directory = directory
        self._names = names
        self._readers = [self._open(name) for name in names]
        self._kin = Kin()
        self._latest: OrderedDict[Id, bytes] = OrderedDict()
        self._commit: GitObject | None = None
        self._commit_source = -1
        self._writer: PackWriter

    def _open(self, name: str) -> PackReader:
        with (self._directory / f"{name}.pack").open("rb") as file:
            pack = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        return PackReader(pack, memoryview((self._directory / f"{name}.idx").read_bytes()))

    def run(self) -> None:
        """Write the new pack, bring it to the disk, remove the old ones."""
        count = len({id for reader in self._readers for _, id in reader.places()})
        with (
            temporary_pack(self._directory) as (file, path),
            temporary_pack(self._directory) as (index_file, index_path),
        ):
            self._writer = PackWriter(file.write, count)
            for number, reader in enumerate(self._readers):
                self._take(reader, number)
            index = self._writer.finish()
            index_file.write(index)
            name = pack_name(index)
            landing = Landing()
            landing.add_pack(self._directory, file, path, (index_file, index_path), name)
            landing.land()
        for old in self._names:
            if old != name:
                for suffix in (".idx", ".pack"):  # in this order nobody looks for what is gone (git-repack does so)
                    with contextlib.suppress(FileNotFoundError):
                        (self._directory / (old + suffix)).unlink()

    def _take(self, reader: PackReader, source: int) -> None:
        at: dict[int, Id] = {}
        for id, offset, entry in reader.entries():
            at[offset] = id
            if id in self._writer.offsets:
                continue
            base = None if entry.base_at is None else at[entry.base_at]
            if base is not None:  # it stands before this one, so it has been taken
                self._writer.add_copied(id, entry, base)
                self._kin.copied(id, base)
            elif entry.kind in ("tree", "commit"):
                self._add(GitObject(Kind(entry.kind), zlib.decompress(entry.deflated), id), source)
            elif entry.kind:
                self._writer.add_copied(id, entry, None)
            else:
                self._unpack(id, source)

    def _unpack(self, id: Id, source: int) -> None:
        """Write a delta of another program's pack, whose base is not where ours have it."""
        kind, data = self._repository.read(pygit2.Oid(raw=id))
        self._add(GitObject(Kind(ObjectType(kind).name.lower()), data, id), source)

    def _add(self, thing: GitObject, source: int) -> None:
        base: tuple[Id, bytes] | None = None
        if thing.kind is Kind.COMMIT:
            base = None if self._commit is None else (self._commit.id, self._commit.data)
            if source != self._commit_source:  # within a source all are based on one, so that no chain gets long
                self._commit, self._commit_source = thing, source
        elif thing.kind is Kind.TREE:
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
        """Keep a large tree: the next one will be the difference from it."""
        if len(thing.data) >= LARGE_BYTES:
            self._latest[thing.id] = thing.data
            if len(self._latest) > LATEST_KEPT:
                self._latest.popitem(last=False)

    def _read(self, id: Id) -> bytes:
        if id in self._latest:
            return self._latest[id]
        return bytes(self._repository.read(pygit2.Oid(raw=id))[1])


def main() -> None:
    """Work as standard input says."""
    os.nice(NICE)
    packer = Packer(Path(sys.argv[1]))
    for line in sys.stdin:
        try:
            packer.work(quiet=line.strip() == "quiet")
        except (OSError, ValueError, pygit2.GitError, KeyError) as error:
            # The store goes on with many packs; the next line is another try.
            answer = f"packs are not brought together: {error}"
        else:
            answer = "done"
        try:
            print(answer, flush=True)
        except BrokenPipeError:
            return  # the store is gone


if __name__ == "__main__":
    main()
