"""Packs and branches on the disk: complete or not there, and in an order that a crash cannot turn round.

First everything is written beside its place. Then all of it is brought to the disk. Then it is renamed: the pack, its
index (without which nobody sees the pack), the branches. So a branch never stands at what is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jitsu_store.git.errors import BranchLockedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

TEMPORARY = "tmp_pack_"
"""What git calls the packs that it is writing, and clears away when they are old (git-prune-packed(1))."""
INCOMING = "jitsu-incoming-"
"""Directories in which what another repository sends is kept until it has been checked."""
READ_ONLY = 0o444
_PACK_INDEX = re.compile(rb"(pack-[0-9a-f]{40})\.idx\0")
"""How a multi-pack-index names a pack (gitformat-pack(5), PNAM)."""


def pack_directory(repository: Path) -> Path:
    """Return where a repository's packs are."""
    return repository / "objects" / "pack"


@contextmanager
def temporary_pack(directory: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a file to write a pack to; whatever is left of it afterwards is removed."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=directory)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        with suppress(OSError):
            path.unlink()


@dataclass
class Landing:
    """Files that are written, and will have their names together."""

    durable: bool = True
    _steps: list[list[tuple[IO[bytes], Path, Path]]] = field(default_factory=list)
    """Step by step: file, where it is, where it will be."""

    def add(self, *files: tuple[IO[bytes], Path, Path]) -> None:
        """Add the next step: files of one directory, renamed in their order."""
        self._steps.append(list(files))

    def add_pack(self, directory: Path, file: IO[bytes], path: Path, index: tuple[IO[bytes], Path], name: str) -> None:
        """Add a pack with its index."""
        for each in (path, index[1]):
            each.chmod(READ_ONLY)
        self.add((file, path, directory / f"{name}.pack"), (*index, directory / f"{name}.idx"))

    def land(self) -> None:
        """Bring everything to the disk and give it its names; raises OSError."""
        files = [file for step in self._steps for file, _, _ in step]
        for file in files:
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        for step in self._steps:
            for _, source, target in step:
                source.replace(target)
            if self.durable:
                sync_directory(step[0][2].parent)


def pack_name(index: bytes) -> str:
    """Return what the pack with this index is called: by its checksum."""
    return f"pack-{index[-40:-20].hex()}"


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def branch_lock(branch: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open the file that becomes a branch, under the name that keeps git and libgit2 away; raises BranchLockedError."""
    branch.parent.mkdir(parents=True, exist_ok=True)
    if branch.is_dir():  # what is left of branches below it that were deleted, or never made
        for directory, _, _ in os.walk(branch, topdown=False):
            Path(directory).rmdir()
    lock = branch.with_name(branch.name + ".lock")
    try:
        file = lock.open("xb")
    except FileExistsError:
        raise BranchLockedError(str(branch), str(lock)) from None
    try:
        with file:
            yield file, lock
    finally:
        with suppress(OSError):
            lock.unlink()


def take_packs(incoming: Path, repository: Path, *, durable: bool = True) -> None:
    """Move the packs of another repository here, which are on the disk already; raises OSError."""
    target = pack_directory(repository)
    for pack in sorted(pack_directory(incoming).glob("*.pack")):
        for suffix in (".pack", ".idx"):  # without its index nobody sees a pack
            path = pack.with_suffix(suffix)
            path.chmod(READ_ONLY)
            path.replace(target / path.name)
    if durable:
        sync_directory(target)


def remove_packs(directory: Path, names: Collection[str]) -> None:
    """Remove packs that another one has replaced, with all that other programs have written about them.

    First what names several packs, then each index, then the pack: so nobody looks for what is gone (git-repack(1)).
    """
    drop_multi_pack_index(directory, names)
    for name in names:
        for suffix in (".idx", ".rev", ".bitmap", ".mtimes", ".pack"):
            with suppress(FileNotFoundError):
                (directory / (name + suffix)).unlink()


def drop_multi_pack_index(directory: Path, going: Collection[str] = ()) -> None:
    """Remove a multi-pack-index, which git makes again when it likes, if it names packs that go or are gone."""
    chain = directory / "multi-pack-index.d"
    named: set[str] = set()
    for path in [directory / "multi-pack-index", *chain.glob("*.midx")]:
        with suppress(FileNotFoundError):
            named |= {name.decode() for name in _PACK_INDEX.findall(path.read_bytes())}
    if named.isdisjoint(going) and all((directory / f"{name}.idx").exists() for name in named):
        return
    for path in [directory / "multi-pack-index", *directory.glob("multi-pack-index-*")]:
        with suppress(FileNotFoundError):
            path.unlink()
    shutil.rmtree(chain, ignore_errors=True)


def clear_leftovers(repository: Path) -> None:
    """Remove what a store that was killed has left: packs half written, branches half moved, transfers half done.

    Only for who alone may write: to git such a lock says that another program is at work.
    """
    left = [*pack_directory(repository).glob(TEMPORARY + "*"), *(repository / "refs").rglob("*.lock")]
    for path in left:
        with suppress(FileNotFoundError):
            path.unlink()
    drop_multi_pack_index(pack_directory(repository))
    for path in repository.glob(INCOMING + "*"):
        shutil.rmtree(path, ignore_errors=True)
