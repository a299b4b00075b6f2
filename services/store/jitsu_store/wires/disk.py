"""The store's directory: a bare Git repository with the store's own files in it, locked for one process."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pygit2

from jitsu_protocol.model.errors import DamagedStore, SetupFault, UnwritableStore
from jitsu_store.git.errors import RepositoryError
from jitsu_store.git.files import clear_leftovers, pack_directory, sync_directory, temporary_pack
from jitsu_store.git.object_store import DiskObjectStore
from jitsu_store.wires.remotes import TransferProcesses
from jitsu_store.wires.repacker_child import RepackerChild
from jitsu_store.wires.repository import Repository, explained

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from jitsu_runtime.world import World
    from jitsu_store.wires.storage import FileStore, Remotes

T = TypeVar("T")

LOCK = "jitsu-store.lock"
MAX_OPEN_PACKFILES = 128
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}


class DirectoryFiles:
    """The files of a directory, each written so that a crash leaves the old or the new content."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """`durable`: wait for the disk."""
        self._path = path
        self._durable = durable

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._path / name)

    def read(self, name: str) -> bytes:
        """Return what a file holds; raises FileNotFoundError if there is none."""
        return (self._path / name).read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        """Make this the content of a file, by a rename."""
        beside = (self._path / name).with_suffix(".tmp")
        with beside.open("wb", buffering=0) as file:
            self._write(file, data)
        beside.replace(self._path / name)
        if self._durable:
            sync_directory(self._path)

    def append(self, name: str, data: bytes) -> int:
        """Add to a file, all or nothing, and return how long it is then."""
        # Without a buffer: what is left in one after a failure would be written when the file is closed.
        with (self._path / name).open("ab", buffering=0) as file:
            begun = file.tell()
            try:
                self._write(file, data)
            except OSError:
                with suppress(OSError):  # half a line would hide all that is appended after it
                    os.ftruncate(file.fileno(), begun)
                raise
            if not begun and self._durable:
                sync_directory(self._path)
            return file.tell()

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            (self._path / name).unlink()

    def _write(self, file: FileIO, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]  # a disk that is nearly full takes a part
        if self._durable:
            os.fsync(file.fileno())


class Thread:
    """Does blocking work on a thread of its own."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[], T]) -> T:
        """Do a piece of work; the thread finishes it even if nobody waits for it any longer."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class DiskStorage:
    """The directory that `store.path` names, or a temporary one, for this process alone."""

    def __init__(self, path: Path, *, is_temporary: bool = False) -> None:
        """Make the repository if there is none, and lock it; raises SetupFault."""
        self.path = path
        self.name = str(path)
        self.is_temporary = is_temporary
        self._durable = not is_temporary
        self._lock = prepare(path, durable=self._durable)
        self.files: FileStore = DirectoryFiles(path, durable=self._durable)
        self.remotes: Remotes = TransferProcesses(path, durable=self._durable)

    def repository(self) -> Repository:
        """Return a handle on the repository, for one thread; raises DamagedStore or Unavailable."""
        return open_repository(self.path, durable=self._durable)

    def worker(self, name: str) -> Thread:
        """Return a new thread."""
        return Thread(name)

    def repacker(self, repacked: Callable[[], None]) -> RepackerChild:
        """Return what combines packfiles, in a process of its own."""
        return RepackerChild(self.path, repacked)

    def close(self) -> None:
        """Unlock the directory, and delete it if it is a temporary one."""
        os.close(self._lock)
        if self.is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def open_storage(world: World) -> DiskStorage:
    """Open what the settings name; raises SetupFault."""
    configured = world.settings.store.path
    return DiskStorage(Path(configured or tempfile.mkdtemp(prefix="jitsu-store-")), is_temporary=not configured)


def open_repository(path: Path, *, durable: bool = True) -> Repository:
    """Return a handle on a repository that is there; raises DamagedStore or Unavailable."""
    try:
        return Repository(DiskObjectStore(path, durable=durable), str(path))
    except RepositoryError as error:
        raise explained(error, str(path)) from None


def prepare(path: Path, *, durable: bool = True) -> int:
    """Make a repository of a new or empty directory, see that it can be written to, and lock it for this process.

    Returns the lock's descriptor. Raises SetupFault, DamagedStore or UnwritableStore; what is there stays as it is.
    """
    os.umask(os.umask(0o077) | 0o022)  # nobody else writes to a repository, whatever this process was given
    pygit2.settings.enable_fsync_gitdir(durable)
    pygit2.settings.mwindow_file_limit = MAX_OPEN_PACKFILES
    try:
        if not path.exists() or not any(path.iterdir()):
            pygit2.init_repository(str(path), bare=True, initial_head="master")
        elif not (path / "objects").is_dir():
            raise DamagedStore(
                f"{path} is not a bare Git repository",
                hint="name one, or a new or empty directory; `git clone --bare` makes one of another repository",
            )
        pack_directory(path).mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(lock, path)
        clear_leftovers(path)
        with temporary_pack(pack_directory(path)) as (file, _):
            file.write(bytes(64 * 1024))  # enough for a commit
            file.flush()
    except (OSError, pygit2.GitError) as error:
        number = getattr(error, "errno", None)
        if number in _UNWRITABLE or isinstance(error, pygit2.GitError):
            raise UnwritableStore(
                f"cannot write to the store {path}: {getattr(error, 'strerror', None) or error}",
                hint="make room on its disk, mount it writable, or give it to this process's user",
            ) from None
        raise SetupFault(f"cannot open the store {path}: {error}") from None
    return lock


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupFault(f"another jitsu-store has {path} open", hint="stop that one first") from None
