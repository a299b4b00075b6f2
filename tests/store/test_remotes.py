"""Pulls of repositories that were made to do harm, and remotes that never end."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from contextlib import contextmanager, suppress
from socket import create_server
from time import monotonic
from typing import TYPE_CHECKING

import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Diff, Log, Pull, Push
from jitsu_protocol.model.errors import Invalid, JitsuError, Refused, Unavailable
from jitsu_store.git.files import pack_name
from jitsu_store.git.objects import LARGE_BYTES, ObjectKind, make
from jitsu_store.git.packfile import Ids, PackfileWriter, apply_delta, delta
from jitsu_store.rules.foreign import MAX_BLOB_BYTES, Checker, ForeignError
from jitsu_store.rules.tree import MAX_TREE_BYTES
from jitsu_store.wires import remotes
from tests.support.store import ME, git, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jitsu_store.git.objects import GitObject, Id

pytestmark = pytest.mark.wires


FILE, LINK, DIRECTORY, MODULE = 0o100644, 0o120000, 0o040000, 0o160000


class Hostile:
    """A repository with whatever objects a test wants, all in one pack."""

    def __init__(self, path: Path, branch: str = "master") -> None:
        self._path, self._branch = path, branch
        self._objects: dict[Id, GitObject] = {}
        if not path.exists():
            pygit2.init_repository(str(path), bare=True, initial_head="master")

    def add(self, kind: ObjectKind, data: bytes) -> Id:
        made = make(kind, data)
        self._objects[made.id] = made
        return made.id

    def blob(self, data: bytes) -> Id:
        return self.add(ObjectKind.BLOB, data)

    def tree(self, *entries: tuple[int, str, Id]) -> Id:
        return self.add(
            ObjectKind.TREE, b"".join(b"%o %s\0" % (mode, name.encode()) + id for mode, name, id in entries)
        )

    def commit(self, tree: Id, *parents: Id, date: str = "1700000000") -> Id:
        who = f"a <a@example.org> {date} +0000"
        lines = [f"tree {tree.hex()}", *(f"parent {parent.hex()}" for parent in parents)]
        raw = "\n".join([*lines, f"author {who}", f"committer {who}", "", "Why\n"])
        return self.add(ObjectKind.COMMIT, raw.encode())

    def forget(self, id: Id) -> None:
        del self._objects[id]

    def write(self, head: Id) -> None:
        """Put all of it on the disk."""
        parts: list[bytes] = []
        writer = PackfileWriter(lambda data: parts.append(bytes(data)), Ids(sorted(self._objects)))
        for each in self._objects.values():
            writer.add(each)
        index = writer.finish()
        place = self._path / "objects" / "pack" / pack_name(index)
        place.with_suffix(".pack").write_bytes(b"".join(parts))
        place.with_suffix(".idx").write_bytes(index)
        (self._path / "refs" / "heads" / self._branch).write_text(head.hex() + "\n")


def deep(hostile: Hostile) -> Id:
    tree = hostile.tree((FILE, "leaf", hostile.blob(b"1")))
    for _ in range(1500):
        tree = hostile.tree((DIRECTORY, "a", tree))
    return hostile.commit(tree)


def bomb(hostile: Hostile) -> Id:
    tree = hostile.tree((FILE, "leaf", hostile.blob(b"1")))
    for _ in range(10):
        tree = hostile.tree(*((DIRECTORY, f"{n}", tree) for n in range(10)))
    return hostile.commit(tree)


def zeros(hostile: Hostile) -> Id:
    return hostile.commit(hostile.tree((FILE, "a", hostile.blob(bytes(MAX_BLOB_BYTES + 1)))))


def shared(hostile: Hostile) -> Id:
    blob = hostile.blob(bytes(1024 * 1024))
    leaves = MAX_TREE_BYTES // (1024 * 1024) + 1
    return hostile.commit(hostile.tree(*((FILE, f"{number:04}", blob) for number in range(leaves))))


def named(name: str, mode: int = FILE) -> Callable[[Hostile], Id]:
    return lambda hostile: hostile.commit(hostile.tree((mode, name, hostile.blob(b"x"))))


def unordered(hostile: Hostile) -> Id:
    blob = hostile.blob(b"x")
    return hostile.commit(hostile.tree((FILE, "b", blob), (FILE, "a", blob)))


def hidden_in_history(hostile: Hostile) -> Id:
    old = hostile.commit(hostile.tree((FILE, ".gitmodules", hostile.blob(b"x"))))
    return hostile.commit(hostile.tree((FILE, "a", hostile.blob(b"x"))), old)


def no_tree(hostile: Hostile) -> Id:
    return hostile.commit(hostile.tree((DIRECTORY, "a", hostile.blob(b"x"))))


def odd_commit(hostile: Hostile) -> Id:
    return hostile.commit(hostile.tree((FILE, "a", hostile.blob(b"x"))), date="01700000000")


HOSTILE = {
    "deep": (deep, "levels"),
    "bomb": (bomb, "leaves"),
    "zeros": (zeros, "bytes"),
    "shared": (shared, "bytes"),
    "git~1": (named("git~1"), "git~1"),
    ".gitmodules": (named(".gitmodules"), "gitmodules"),
    "link": (named("a", LINK), "not well formed"),
    "module": (named("a", MODULE), "not well formed"),
    "unordered": (unordered, "not in order"),
    "history": (hidden_in_history, "gitmodules"),
    "no tree": (no_tree, "refers to a tree|does not match the type"),  # the latter is what libgit2 says
    "odd commit": (odd_commit, "not well formed"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_g9_a_hostile_repository_is_refused_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    build, why = HOSTILE[kind]
    hostile = Hostile(tmp_path / "hostile")
    hostile.write(build(hostile))
    async with running(tmp_path / "db") as store:
        await store.apply({"jitsu/x": "1"})
        pull = asyncio.create_task(store.server.pull(Pull(remote=str(tmp_path / "hostile"), author=ME, request="")))
        await store.apply({"jitsu/y": "1"})  # while the transfer is under way
        with pytest.raises(JitsuError, match=f"hostile.*({why})"):
            await pull
        await store.apply({"jitsu/z": "1"})
        assert await store.leaves() == {"jitsu/x": "1", "jitsu/y": "1", "jitsu/z": "1"}
        assert len(list((tmp_path / "db" / "objects" / "pack").glob("*.pack"))) == 3
        assert not list((tmp_path / "db").glob("jitsu-incoming-*"))
        store.git("fsck", "--strict")


async def test_a_repository_with_a_missing_object_is_not_taken(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "hostile")
    missing = hostile.blob(b"gone")
    head = hostile.commit(hostile.tree((FILE, "a", missing)))
    hostile.forget(missing)
    hostile.write(head)
    async with running(tmp_path / "db") as store:
        await store.apply({"jitsu/x": "1"})
        with pytest.raises(JitsuError):
            await store.server.pull(Pull(remote=str(tmp_path / "hostile"), author=ME, request=""))
        store.git("fsck", "--strict")
        assert await store.leaves() == {"jitsu/x": "1"}


async def test_a_long_history_with_a_large_directory_is_taken_from_git_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as store:
        await store.apply({f"jitsu/x/{n:04}/y": str(n) for n in range(600)})
        for number in range(40):
            await store.apply({f"jitsu/x/{number * 7:04}/y": f"n{number}"})
        await store.apply({"jitsu/x/new": "1", "jitsu/x/0001/y": None})
        git(tmp_path / "a", "repack", "-q", "-a", "-d", "-f")
        history, leaves = store.git("log", "--format=%H"), await store.leaves()
    async with running(tmp_path / "b") as store:
        await store.server.pull(Pull(remote=str(tmp_path / "a"), author=ME, request=""))
        assert await store.leaves() == leaves
        assert store.git("log", "--format=%H", "master~1") == history
        store.git("fsck", "--strict")
        await store.apply({"jitsu/x/new": "2"})
        await store.server.push(Push(remote=str(tmp_path / "a"), author=ME))
    assert git(tmp_path / "a", "show", "master:jitsu/x/new") == "2"


async def test_what_a_refused_repository_leaves_is_removed_while_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed_by: list[threading.Thread] = []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: removed_by.append(threading.current_thread()))
    hostile = Hostile(tmp_path / "hostile")
    hostile.write(named("git~1")(hostile))
    with pytest.raises(Invalid):
        await remotes.TransferProcesses(tmp_path / "hostile").fetch(str(tmp_path / "hostile"), "master")
    assert len(removed_by) == 1
    assert removed_by[0] is not threading.main_thread()


@contextmanager
def trickling() -> Iterator[str]:
    """A remote that sends a byte at a time, and never comes to an end."""
    end = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"0fff")
                    while not end.wait(0.02):
                        connection.sendall(b"x")

    with create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"git://127.0.0.1:{listener.getsockname()[1]}/x"
        end.set()


async def test_a_remote_that_trickles_is_left_after_one_limit_for_all_and_blocks_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "TRANSFER_LIMIT_S", 4.0)
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        with trickling() as remote:
            begun = monotonic()
            slow = asyncio.create_task(store.server.pull(Pull(remote=remote, author=ME, request="")))
            await asyncio.sleep(0)
            await store.server.push(Push(remote=str(tmp_path / "other.git"), author=ME))
            assert not slow.done()
            with pytest.raises(Unavailable, match="took longer than 4 s"):
                await slow
            assert monotonic() - begun < 30
        assert not list((tmp_path / "db").glob("jitsu-incoming-*"))


async def test_what_a_store_that_was_killed_had_fetched_is_removed_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
    (tmp_path / "db" / "jitsu-incoming-x" / "objects").mkdir(parents=True)
    async with running(tmp_path / "db") as store:
        assert not list((tmp_path / "db").glob("jitsu-incoming-*"))
        assert await store.get("a") == "1"


async def test_a_history_that_holds_a_bomb_cannot_stop_a_store_that_is_asked_for_it(tmp_path: Path) -> None:
    for build in (bomb, deep):
        async with running(tmp_path / build.__name__) as store:
            first = await store.apply({"a": "1"})
            hostile = Hostile(store.path, "bad")
            bad = build(hostile)
            hostile.write(bad)
            with pytest.raises(Refused, match=r"too much to read: .*more than"):
                await store.server.reader.diff(Diff(old=first, new=bad.hex()))
            assert len((await store.server.reader.log(Log())).commits) == 1
            await store.apply({"a": "2"})


chance = random.Random(3)
NAMES = sorted(f"{number:04}" for number in range(1000))
LARGE = b"".join(b"100644 %s\0" % name.encode() + chance.randbytes(20) for name in NAMES)


@given(st.lists(st.tuples(st.integers(0, len(LARGE) - 1), st.binary(min_size=1, max_size=30)), max_size=3))
def test_what_is_said_of_a_next_version_is_what_a_whole_check_says(edits: list[tuple[int, bytes]]) -> None:
    assert len(LARGE) >= LARGE_BYTES
    after = bytearray(LARGE)
    for at, new in edits:
        after[at : at + len(new)] = new[: len(LARGE) - at]
    checker = Checker(lambda id: ObjectKind.TREE if id[0] == 7 else ObjectKind.BLOB)
    sound = b"".join(
        LARGE[at : at + 12] + (b"\x08" if LARGE[at + 12] == 7 else LARGE[at + 12 : at + 13]) + LARGE[at + 13 : at + 32]
        for at in range(0, len(LARGE), 32)
    )
    before = checker.tree(sound)
    target, inserted = apply_delta(sound, delta(sound, bytes(after)))
    assert target == bytes(after)
    assert inserted is not None
    try:
        quick = checker.next_version(target, before, inserted)
    except ForeignError:
        with pytest.raises(ForeignError):
            checker.tree(target)
    else:
        if quick is not None:
            assert list(quick.entries) == list(checker.tree(target).entries)


def test_a_delta_that_moves_something_is_not_in_place_and_a_damaged_one_is_refused() -> None:
    base, target = LARGE, LARGE[: 32 * 400] + LARGE[32 * 401 :]
    difference = delta(base, target)
    assert apply_delta(base, difference) == (target, None)
    for damaged in (difference[:-1], difference + b"\0", difference[:1]):
        with pytest.raises((ValueError, IndexError)):
            apply_delta(base, damaged)
