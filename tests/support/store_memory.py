"""A store's repository in memory, for unit tests and for the simulation.

`MemoryDisk` is what outlives a store: objects, branches and files. Each store that is started on it is given a
`MemoryStorage` of its own:

    disk = MemoryDisk()
    await jitsu_store.main.start(world, lambda world: MemoryStorage(disk))

Nothing here uses a thread, a process or a clock. What lands has landed: there is no state in between that a kill could
leave. `disk.failures` has what the next writes raise instead of writing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from jitsu_protocol.model.errors import Unavailable
from jitsu_store.git.commits import parse_commit
from jitsu_store.git.errors import BranchMovedError, DamagedError
from jitsu_store.wires.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jitsu_store.git.commits import CommitRecord
    from jitsu_store.git.objects import GitObject, Id, ObjectKind
    from jitsu_store.wires.storage import FileStore, Remotes

T = TypeVar("T")

NAME = "the disk of the test"


class MemoryDisk:
    """What a store leaves behind when it ends."""

    def __init__(self) -> None:
        self.objects: dict[Id, GitObject] = {}
        self.heads: dict[str, Id] = {}
        self.files: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        """What the next writes raise, one each."""

    def fail(self) -> None:
        """Raise the next failure, if there is one."""
        if self.failures:
            raise self.failures.pop(0)


class MemoryObjects:
    """An object store: see `ObjectStore`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    def reopen(self) -> None:
        pass

    def heads(self) -> dict[str, Id]:
        return dict(sorted(self._disk.heads.items()))

    def head(self, branch: str) -> Id | None:
        return self._disk.heads.get(branch)

    def find_commit(self, prefix: str) -> Id | None:
        found = [each for each in self._disk.objects.values() if each.id.hex().startswith(prefix)]
        return found[0].id if len(found) == 1 and found[0].kind.value == "commit" else None

    def read(self, id: Id, kind: ObjectKind) -> bytes:
        found = self._disk.objects.get(id)
        if found is None or found.kind is not kind:
            raise DamagedError("there is no such object", id)
        return found.data

    def _commit(self, id: Id) -> CommitRecord:
        found = self._disk.objects.get(id)
        if found is None:
            raise DamagedError("there is no such object", id)
        return parse_commit(id, found.data)

    def ancestors(self, head: Id) -> Iterator[Id]:
        waiting, seen = [self._commit(head)], {head}
        while waiting:
            newest = max(waiting, key=lambda each: each.ts)
            waiting.remove(newest)
            yield newest.id
            for parent in newest.parents:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(self._commit(parent))

    def first_parents(self, head: Id) -> Iterator[Id]:
        at: Id | None = head
        while at is not None:
            yield at
            parents = self._commit(at).parents
            at = parents[0] if parents else None

    def merge_base(self, one: Id, other: Id) -> Id | None:
        of_one = set(self.ancestors(one))
        common = [id for id in self.ancestors(other) if id in of_one]
        older = {below for id in common for below in self.ancestors(id) if below != id}
        return next((id for id in common if id not in older), None)

    def land(self, objects: Sequence[GitObject], moves: Mapping[str, tuple[Id | None, Id | None]]) -> None:
        self._disk.fail()
        for branch, (old, _) in moves.items():
            if self._disk.heads.get(branch) != old:
                raise BranchMovedError(branch)
        self._disk.objects |= {each.id: each for each in objects}
        for branch, (_, new) in moves.items():
            if new is None:
                self._disk.heads.pop(branch, None)
            else:
                self._disk.heads[branch] = new


class MemoryFiles:
    """Files: see `FileStore`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    def path(self, name: str) -> str:
        return f"{NAME}/{name}"

    def read(self, name: str) -> bytes:
        if name not in self._disk.files:
            raise FileNotFoundError(name)
        return self._disk.files[name]

    def replace(self, name: str, data: bytes) -> None:
        self._disk.fail()
        self._disk.files[name] = data

    def append(self, name: str, data: bytes) -> int:
        self._disk.fail()
        self._disk.files[name] = self._disk.files.get(name, b"") + data
        return len(self._disk.files[name])

    def remove(self, name: str) -> None:
        self._disk.fail()
        self._disk.files.pop(name, None)


class Inline:
    """Does blocking work at once, after everybody else has had a turn: see `Worker`."""

    async def run(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return work()

    def close(self) -> None:
        pass


class NoRemotes:
    """No other repository can be reached."""

    async def push(self, remote: str, branch: str) -> Id:
        raise Unavailable(f"{remote} cannot be reached")

    async def fetch(self, remote: str, branch: str) -> Id:
        raise Unavailable(f"{remote} cannot be reached")


class NoRepacker:
    """Nothing has to be combined."""

    def __init__(self) -> None:
        self.commits = 0

    def started(self, missing: int) -> None:
        pass

    def committed(self, changes: int) -> None:
        self.commits += 1

    def notes(self) -> list[str]:
        return []

    async def run(self) -> None:
        await asyncio.Event().wait()


class MemoryStorage:
    """What `main.start` is given: see `Storage`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.name = NAME
        self.is_temporary = False
        self.disk = disk
        self.files: FileStore = MemoryFiles(disk)
        self.remotes: Remotes = NoRemotes()

    def repository(self) -> Repository:
        return Repository(MemoryObjects(self.disk), NAME)

    def worker(self, name: str) -> Inline:
        return Inline()

    def repacker(self, repacked: Callable[[], None]) -> NoRepacker:
        return NoRepacker()

    def close(self) -> None:
        pass
