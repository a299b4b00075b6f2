"""Pack files on the disk: complete or not there."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY = "tmp_pack_"
"""What git calls the packs that it is writing, and clears away when they are old (git-prune-packed(1))."""
READ_ONLY = 0o444


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


def place_pack(directory: Path, temporary: Path, index: bytes, *, durable: bool = True) -> str:
    """Give a pack that is on the disk its name, and its index; returns the name.

    The index comes last: without it nobody sees a pack.
    """
    name = f"pack-{index[-40:-20].hex()}"
    with temporary_pack(directory) as (file, path):
        file.write(index)
        file.flush()
        if durable:
            os.fsync(file.fileno())
        for source, suffix in ((temporary, ".pack"), (path, ".idx")):
            source.chmod(READ_ONLY)
            source.replace(directory / f"{name}{suffix}")
    if durable:
        sync_directory(directory)
    return name


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(repository: Path) -> None:
    """Remove what a store that was killed has left: packs half written, branches half moved.

    Only for who alone may write: to git such a lock says that another program is at work.
    """
    left = [*pack_directory(repository).glob(TEMPORARY + "*"), *(repository / "refs").rglob("*.lock")]
    for path in left:
        with suppress(FileNotFoundError):
            path.unlink()
