"""Packfiles and branches on the disk: each is complete or not there, in an order that a crash cannot reverse.

First, everything is written under a temporary name. Then all of it is brought to the disk. Then it is renamed: the
packfile, its index (without which nobody sees the packfile), and the branches. So a branch never points at something
that does not exist.
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
"""How git names packfiles while it writes them. It removes old ones (git-prune-packed(1))."""
INCOMING = "jitsu-incoming-"
"""Directories that keep what another repository sends until it has been checked."""
READ_ONLY = 0o444
_PACK_INDEX = re.compile(rb"(pack-[0-9a-f]{40})\.idx\0")
"""How a multi-pack-index names a packfile (gitformat-pack(5), PNAM)."""


def pack_directory(repository: Path) -> Path:
    """Return the directory of a repository's packfiles."""
    return repository / "objects" / "pack"


@contextmanager
def temporary_pack(directory: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a file to write a packfile to. If it has not been renamed by then, it is removed at the end."""
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
    """Files that are written, and are to get their names together."""

    durable: bool = True
    _steps: list[list[tuple[IO[bytes], Path, Path]]] = field(default_factory=list)
    """Step by step: file, where it is, where it will be."""

    def add(self, *files: tuple[IO[bytes], Path, Path]) -> None:
        """Add the next step: files of one directory, renamed in their order."""
        self._steps.append(list(files))

    def add_pack(self, directory: Path, file: IO[bytes], path: Path, index: tuple[IO[bytes], Path], name: str) -> None:
        """Add a packfile with its index."""
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
    """Return the name of the packfile with this index, which is its checksum."""
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
    """Move the packfiles of another repository here. They are on the disk already. Raises OSError."""
    target = pack_directory(repository)
    for pack in sorted(pack_directory(incoming).glob("*.pack")):
        for suffix in (".pack", ".idx"):  # without its index nobody sees a pack
            path = pack.with_suffix(suffix)
            path.chmod(READ_ONLY)
            path.replace(target / path.name)
    if durable:
        sync_directory(target)


def remove_packs(directory: Path, names: Collection[str]) -> None:
    """Remove packfiles that another one has replaced, and everything that other programs have written about them.

    First goes what names several packfiles, then each index, then the packfile, so that nobody looks for what is gone
    (git-repack(1)).
    """
    drop_multi_pack_index(directory, names)
    for name in names:
        for suffix in (".idx", ".rev", ".bitmap", ".mtimes", ".pack"):
            with suppress(FileNotFoundError):
                (directory / (name + suffix)).unlink()


def drop_multi_pack_index(directory: Path, going: Collection[str] = ()) -> None:
    """Remove a multi-pack-index if it names packfiles that go or are gone; git makes another one when it wants to."""
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
    """Remove what a killed store has left: half-written packfiles, half-moved branches, half-done transfers.

    Only the process that holds the lock may call this. To git, the lock of a branch means that another program is at
    work.
    """
    left = [*pack_directory(repository).glob(TEMPORARY + "*"), *(repository / "refs").rglob("*.lock")]
    for path in left:
        with suppress(FileNotFoundError):
            path.unlink()
    drop_multi_pack_index(pack_directory(repository))
    for path in repository.glob(INCOMING + "*"):
        shutil.rmtree(path, ignore_errors=True)
