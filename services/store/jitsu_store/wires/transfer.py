"""Talks to another repository, in a process of its own because anything may come from there.

remotes.py starts it and writes one JSON object to its standard input. It prints one: `{"commit": HEX}`, or an error,
`{"code": ..., "message": ..., "hint": ...}`. It ends when its standard input is closed. The kernel limits its memory
and the size of its files; the store limits its time.

What is fetched is written to a repository beside the store's, which sees the store's objects as alternates
(gitrepository-layout(5)), and is checked there (rules/foreign.py). If it is accepted, the store moves the packfiles.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
import threading
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pygit2
from pygit2.enums import ObjectType

from jitsu_store.git.branches import BRANCHES
from jitsu_store.git.commits import parse_commit
from jitsu_store.git.files import pack_directory, sync_directory
from jitsu_store.git.objects import LARGE_BYTES, Id, ObjectKind
from jitsu_store.git.packfile import Ids, PackfileReader, apply_delta
from jitsu_store.rules.foreign import MAX_OBJECTS, Checker, ForeignError, Measure, Tree
from jitsu_store.wires.credentials import SshCredentials

if TYPE_CHECKING:
    from collections.abc import Sequence

NICE = 10
"""Somebody waits for a transfer, but the services that answer queries come first."""
WINDOW_BYTES = 16 * 1024 * 1024
LARGE_KEPT = 8
"""How many large trees are kept, because the next version may be a difference from one of them."""
READS_BEFORE_REOPENING = 2000
FETCHED = "refs/fetched"
_KINDS = {ObjectType.BLOB: ObjectKind.BLOB, ObjectType.TREE: ObjectKind.TREE, ObjectType.COMMIT: ObjectKind.COMMIT}


class RemoteError(Exception):
    """The transfer is refused: a code of jitsu_protocol.model.errors, what is wrong, what to do."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


def push(store: Path, remote: str, branch: str) -> str:
    """Send a branch; returns its commit."""
    refused: list[str] = []

    class PushCallbacks(SshCredentials):
        def push_update_reference(self, refname: str, message: str | None) -> None:
            if message:
                refused.append(f"{refname}: {message[:200]}")

    repository = pygit2.Repository(str(store))
    name = BRANCHES + branch
    repository.remotes.create_anonymous(remote).push([f"{name}:{name}"], callbacks=PushCallbacks())
    if refused:
        raise RemoteError("conflict", f"{remote} refused: {'; '.join(refused[:5])}")
    return str(repository.references[name].resolve().target)


def fetch(store: Path, incoming: Path, remote: str, branch: str, max_bytes: int) -> str:
    """Bring a branch to the repository `incoming`, check everything that came, and return its latest commit."""

    class FetchCallbacks(SshCredentials):
        def transfer_progress(self, stats: Any) -> None:
            if stats.total_objects > MAX_OBJECTS or stats.received_bytes > max_bytes:
                raise ForeignError(f"it sends more than {MAX_OBJECTS} objects or {max_bytes} bytes")

    repository = pygit2.init_repository(str(incoming), bare=True)
    (incoming / "objects" / "info" / "alternates").write_text(f"{store.absolute()}/objects\n")
    repository = pygit2.Repository(str(incoming))
    for name in {branch, "master"}:  # what the other side need not send
        with suppress(KeyError):
            head = pygit2.Repository(str(store)).references[BRANCHES + name].resolve().target
            repository.references.create(f"{BRANCHES}here/{name}", head)
    repository.remotes.create_anonymous(remote).fetch([f"+{BRANCHES}{branch}:{FETCHED}"], callbacks=FetchCallbacks())
    reference = repository.references.get(FETCHED)
    if reference is None:
        raise RemoteError("not-found", f"{remote} has no branch {branch}")
    commit = reference.resolve().target
    FetchedObjects(incoming).check(bytes(pygit2.Oid(hex=str(commit)).raw))
    for path in pack_directory(incoming).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(pack_directory(incoming))
    return str(commit)


class FetchedObjects:
    """What has been fetched, before it is trusted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._repository = pygit2.Repository(str(path))
        self._reads = 0
        self._indexes = sorted(pack_directory(path).glob("*.idx"))
        self._new = [self._ids(index) for index in self._indexes]
        self._kinds = [bytearray(len(ids)) for ids in self._new]
        self._checker = Checker(self._kind_of)
        self._large: OrderedDict[Id, tuple[bytes, Tree]] = OrderedDict()

    def check(self, commit: Id) -> None:
        """Raise ForeignError if any of it cannot be accepted."""
        if any(path.is_file() for path in (self._path / "objects").glob("[0-9a-f][0-9a-f]/*")):
            raise ForeignError("it came as loose objects")
        for ids, kinds in zip(self._new, self._kinds, strict=True):
            for number, id in enumerate(ids):
                kind, size = self._header(id)
                self._checker.size(kind, size)
                kinds[number] = 1 + list(ObjectKind).index(kind)
        for index in self._indexes:
            self._check_pack(index)
        if self._kind_of(commit) is not ObjectKind.COMMIT:
            raise ForeignError("the branch does not stand at a commit")
        Measure(self._entries, lambda id: self._header(id)[1]).tree(parse_commit(commit, self._read(commit)).tree)

    def _check_pack(self, index: Path) -> None:
        with index.with_suffix(".pack").open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        reader = PackfileReader(memoryview(pages), memoryview(index.read_bytes()))
        given_back = 0
        for id, offset, entry in reader.entries():
            if offset - given_back > WINDOW_BYTES:
                given_back = offset - offset % mmap.PAGESIZE
                pages.madvise(mmap.MADV_DONTNEED, 0, given_back)
            kind = self._kind_of(id)
            if kind is ObjectKind.COMMIT:
                self._checker.commit(self._read(id))
            elif kind is ObjectKind.TREE and not (
                entry.base in self._large and self._is_next(id, entry.base, entry.deflated)
            ):
                data = self._read(id)
                self._keep(id, data, self._checker.tree(data))

    def _is_next(self, id: Id, base: Id | None, deflated: memoryview) -> bool:
        """Check a large tree by what differs from an earlier version; returns whether that was possible."""
        assert base is not None
        before, tree = self._large[base]
        data, inserted = apply_delta(before, zlib.decompress(deflated))
        checked = None if inserted is None else self._checker.next_version(data, tree, inserted)
        if checked is None:
            return False
        self._keep(id, data, checked)
        return True

    def _keep(self, id: Id, data: bytes, tree: Tree) -> None:
        if len(data) >= LARGE_BYTES:
            self._large[id] = data, tree
            if len(self._large) > LARGE_KEPT:
                self._large.popitem(last=False)

    def _entries(self, id: Id) -> Sequence[tuple[Id, bool]]:
        return self._checker.tree(self._read(id)).entries

    def _kind_of(self, id: Id) -> ObjectKind | None:
        for ids, kinds in zip(self._new, self._kinds, strict=True):
            with suppress(KeyError):
                return list(ObjectKind)[kinds[ids.find(id)] - 1]
        try:
            return self._header(id)[0]
        except KeyError:
            return None

    def _header(self, id: Id) -> tuple[ObjectKind, int]:
        kind, size = self._repository.odb.read_header(pygit2.Oid(raw=id))
        return _KINDS.get(ObjectType(kind), ObjectKind.TAG), size

    def _read(self, id: Id) -> bytes:
        self._reads += 1
        if self._reads % READS_BEFORE_REOPENING == 0:  # libgit2 keeps up to 16 MB of each pack that it reads
            self._repository.free()
            self._repository = pygit2.Repository(str(self._path))
        return bytes(self._repository.read(pygit2.Oid(raw=id))[1])

    @staticmethod
    def _ids(index: Path) -> Ids:
        with index.with_suffix(".pack").open("rb") as file:
            head = memoryview(file.read(8))
        return Ids(PackfileReader(head, memoryview(index.read_bytes())).ids())


def work(asked: dict[str, Any]) -> dict[str, str]:
    """Do what is asked for, and return the answer."""
    remote, store, branch = asked["remote"], Path(asked["store"]), asked["branch"]
    try:
        if asked["incoming"]:
            return {"commit": fetch(store, Path(asked["incoming"]), remote, branch, asked["max_bytes"])}
        return {"commit": push(store, remote, branch)}
    except RemoteError as error:
        return {"code": error.code, "message": str(error), "hint": error.hint}
    except ForeignError as error:
        return {
            "code": "invalid",
            "message": f"{remote} was not accepted: {error}",
            "hint": "nothing of it has been merged; clone it with git to look at it",
        }
    except (MemoryError, pygit2.GitError, ValueError, LookupError, OSError) as error:
        text = str(error)[:500]
        if isinstance(error, MemoryError) or "out of memory" in text.lower():
            return {
                "code": "invalid",
                "message": f"{remote} was not accepted: it needs more memory than a transfer may use",
            }
        if "non-fast" in text or "fastforward" in text or "not present locally" in text:
            return {
                "code": "conflict",
                "message": f"{remote} has commits that are not here",
                "hint": f"jitsu pull {remote}",
            }
        return {
            "code": "unavailable",
            "message": f"{remote}: {text}",
            "hint": "does it exist, and may this process reach it?",
        }


def _limit(asked: dict[str, Any]) -> None:
    for what, limit in ((resource.RLIMIT_DATA, asked["max_memory"]), (resource.RLIMIT_FSIZE, asked["max_bytes"])):
        resource.setrlimit(what, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = pygit2.settings
    settings.enable_caching(False)
    settings.mwindow_size, settings.mwindow_mapped_limit = WINDOW_BYTES, 8 * WINDOW_BYTES
    settings.server_connect_timeout, settings.server_timeout = asked["connect_limit_ms"], asked["silent_limit_ms"]


def _end_with_the_store() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Do what standard input says."""
    os.nice(NICE)
    asked = json.loads(sys.stdin.readline())
    _limit(asked)
    threading.Thread(target=_end_with_the_store, daemon=True).start()
    print(json.dumps(work(asked)), flush=True)
    os._exit(0)  # the thread still reads


if __name__ == "__main__":
    main()
