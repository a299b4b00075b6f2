"""What the store keeps its state in, as an interface: everything that it touches of a machine besides the bus.

The real one is a directory on a disk (wires/disk.py). A test or a simulation gives `main.start` another `Storage`;
tests/support/store_memory.py has one in memory, which outlives a store that is killed, and fails on
demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_store.git.objects import Id
    from jitsu_store.wires.repository import Repository

T = TypeVar("T")


class FileStore(Protocol):
    """Small files beside the repository. All methods block, and raise OSError."""

    def path(self, name: str) -> str:
        """Return what operators call a file."""

    def read(self, name: str) -> bytes:
        """Return what a file holds; raises FileNotFoundError if there is none."""

    def replace(self, name: str, data: bytes) -> None:
        """Make this the content of a file; after a crash it is this one or the one before."""

    def append(self, name: str, data: bytes) -> int:
        """Add to a file, all or nothing, and return how long it is then."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class Worker(Protocol):
    """Does blocking work, one piece after the other."""

    async def run(self, work: Callable[[], T]) -> T:
        """Do a piece of work, and return its result; it is finished even if nobody waits for it any longer."""

    def close(self) -> None:
        """Begin nothing more."""


class Remotes(Protocol):
    """Other repositories."""

    async def push(self, remote: str, branch: str) -> Id:
        """Send a branch to another repository, and return its commit; raises Conflict if that would lose commits."""

    async def fetch(self, remote: str, branch: str) -> Id:
        """Bring a branch of another repository here, and return its latest commit."""


class Repacker(Protocol):
    """Combines packfiles when there is something to combine."""

    def started(self, missing: int) -> None:
        """Note how many leaves the store did not find in the snapshot."""

    def committed(self, changes: int) -> None:
        """Note that there is one more packfile, with so many changes."""

    def notes(self) -> list[str]:
        """Return what an operator should know."""

    async def run(self) -> None:
        """Work until cancelled."""


class Storage(Protocol):
    """One repository and what is beside it, opened for this process alone."""

    name: str
    """What operators call it: its path."""
    is_temporary: bool
    """It is deleted when the store stops."""
    files: FileStore
    remotes: Remotes

    def repository(self) -> Repository:
        """Return a handle on the repository, for one thread; raises DamagedStore or Unavailable."""

    def worker(self, name: str) -> Worker:
        """Return a thread, or what stands for one."""

    def repacker(self, repacked: Callable[[], None]) -> Repacker:
        """Return what combines packfiles; it calls `repacked` each time that it has."""

    def close(self) -> None:
        """Let another process have it."""
