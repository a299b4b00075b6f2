"""The process that brings packs together: its memory, its end, and what it leaves when it is interrupted."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_store.git.commits import CommitDraft
from jitsu_store.git.files import pack_directory
from jitsu_store.rules.repack_plan import FAN_IN
from jitsu_store.wires import repacker_child
from jitsu_store.wires.disk import open_repository, prepare
from jitsu_store.wires.repacker import AbandonedError, PackfileMerge, RepackPass
from jitsu_store.wires.repacker_child import RepackerChild
from tests.support.store import git, running

if TYPE_CHECKING:
    from jitsu_store.git.objects import Id
    from jitsu_store.wires.repository import Repository

pytestmark = pytest.mark.wires

MB = 1024


def filled(path: Path, commits: int, value_bytes: int) -> None:
    """Make a repository in which each commit is a pack with one value that does not compress."""
    prepare(path, durable=False)
    repository, chance, head = open_repository(path, durable=False), random.Random(1), None
    for number in range(commits):
        head = commit(repository, head, {f"a/{number}": chance.randbytes(value_bytes // 2).hex()})


def commit(repository: Repository, head: Id | None, changes: dict[str, str | None]) -> Id:
    parents = () if head is None else (head,)
    new = repository.stage_commit(CommitDraft(parents, "operator:me", "Why", 1.0), changes)
    repository.land(repository.staged(), {"master": (head, new)})
    repository.landed()
    return new


def busy_pass_kb(path: Path) -> int:
    """Have a packer do a busy pass, and return its peak memory."""
    command = [sys.executable, "-m", "jitsu_store.wires.repacker", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as packer:
        assert packer.stdin is not None
        assert packer.stdout is not None
        packer.stdin.write("busy\n")
        packer.stdin.flush()
        assert packer.stdout.readline() == "done\n"
        status = Path(f"/proc/{packer.pid}/status").read_text()
        mapped = Path(f"/proc/{packer.pid}/maps").read_text()
    assert ".pack" not in mapped, "what is open keeps memory in libgit2, also when others read it later"
    return int(status.split("VmHWM:")[1].split()[0])


def packs(path: Path) -> int:
    return sum(1 for _ in (path / "objects" / "pack").glob("*.pack"))


def test_the_packers_memory_does_not_grow_with_the_packs_that_wait(tmp_path: Path) -> None:
    filled(tmp_path / "db", 250, 1_000_000)
    peak_kb = busy_pass_kb(tmp_path / "db")
    assert packs(tmp_path / "db") == 1
    assert peak_kb < 110 * MB  # the packs have 125 MB
    git(tmp_path / "db", "fsck", "--strict")


def test_the_packers_memory_does_not_grow_with_the_versions_of_a_large_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    prepare(tmp_path / "db", durable=False)
    repository, directory = open_repository(tmp_path / "db", durable=False), pack_directory(tmp_path / "db")
    head = commit(repository, None, {f"{number:04x}": "0" for number in range(24_000)})
    (first,) = directory.glob("*.pack")
    for source in range(FAN_IN):
        before = set(directory.glob("*.pack"))
        for number in range(3):
            head = commit(repository, head, {f"{source:04x}": f"n{number}"})
        new = sorted(set(directory.glob("*.pack")) - before, key=lambda pack: pack.stat().st_mtime_ns)
        PackfileMerge(tmp_path / "db", directory, [pack.stem for pack in new], lambda: True).run()
    first.with_suffix(".keep").touch()
    peak_kb = busy_pass_kb(tmp_path / "db")
    assert packs(tmp_path / "db") == 2
    assert peak_kb < 65 * MB  # a process needs 40, and libgit2 could keep 70 of the tree's 96 versions


def test_a_packer_whose_store_is_gone_stops_in_the_middle_and_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "db", 100, 10)
    before = sorted((tmp_path / "db" / "objects" / "pack").iterdir())
    with pytest.raises(AbandonedError):
        RepackPass(tmp_path / "db", is_wanted=lambda: False).work(quiet=True)
    assert sorted((tmp_path / "db" / "objects" / "pack").iterdir()) == before


async def test_the_packer_ends_when_it_is_done_and_comes_back_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, started, passes = tmp_path / "db", list[asyncio.subprocess.Process](), asyncio.Queue[None]()
    filled(path, repacker_child.FEW_PACKS, 10)
    monkeypatch.setattr(repacker_child, "QUIET_S", 0.01)
    monkeypatch.setattr(repacker_child, "NEXT_PASS_S", 0.01)
    start = asyncio.create_subprocess_exec

    async def noted(*arguments: Any, **more: Any) -> asyncio.subprocess.Process:
        started.append(await start(*arguments, **more))
        return started[-1]

    monkeypatch.setattr("asyncio.create_subprocess_exec", noted)
    keeper = RepackerChild(path, lambda: passes.put_nowait(None))
    working = asyncio.create_task(keeper.run())
    try:
        await passes.get()
        assert packs(path) == 1  # those of an earlier start
        assert await started[0].wait() == 0
        repository = open_repository(path, durable=False)
        head = repository.head("master")
        for number in range(FAN_IN):
            head = commit(repository, head, {"b": str(number)})
            keeper.committed(1)
        while packs(path) > 1:
            await passes.get()
        assert await started[-1].wait() == 0
        assert len(started) > 1
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    git(path, "fsck", "--strict")


@pytest.mark.parametrize(
    "upkeep_of_git",
    [
        ["multi-pack-index", "write"],
        ["commit-graph", "write", "--reachable"],
        ["maintenance", "run", "--task=incremental-repack", "--task=commit-graph", "--task=pack-refs"],
    ],
    ids=" ".join,
)
async def test_g6_gits_own_upkeep_and_ours_leave_a_repository_without_fault(
    tmp_path: Path, upkeep_of_git: list[str]
) -> None:
    async with running(tmp_path / "db") as store:
        for number in range(10):
            await store.apply({f"a/{number}": str(number)})
        store.git(*upkeep_of_git)
        await store.apply({"a/0": "x"})
        assert RepackPass(tmp_path / "db").work(quiet=True) > 1
        await store.apply({"a/1": "y"})  # before the store has looked again
        store.git("fsck", "--strict")
        store.server.repacked()
        await store.apply({"a/2": "z"})
        store.git("fsck", "--strict")
        assert len(store.git("log", "--format=%H").split()) == 13
        assert await store.get("a/9") == "9"


async def test_a_multi_pack_index_that_names_packs_that_are_gone_is_removed_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        for number in range(3):
            await store.apply({"a": str(number)})
        store.git("multi-pack-index", "write")
        index = tmp_path / "db" / "objects" / "pack" / "multi-pack-index"
        kept = index.read_bytes()
        RepackPass(tmp_path / "db").work(quiet=True)
    index.write_bytes(kept)
    async with running(tmp_path / "db") as store:
        assert not index.exists()
        store.git("fsck", "--strict")


async def test_a_packer_that_cannot_be_started_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries, packed = tmp_path / "db", list[int](), asyncio.Event()
    started = list[asyncio.subprocess.Process]()
    monkeypatch.setattr(repacker_child, "NEXT_PASS_S", 0.01)
    filled(path, repacker_child.FEW_PACKS, 10)
    monkeypatch.setattr(repacker_child, "QUIET_S", 0.01)
    monkeypatch.setattr(repacker_child, "RESTART_S", 0.01)
    start = asyncio.create_subprocess_exec

    async def lacking(*arguments: Any, **more: Any) -> asyncio.subprocess.Process:
        tries.append(len(tries))
        if len(tries) <= 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        assert "Resource temporarily unavailable" in keeper.notes()[0]
        started.append(await start(*arguments, **more))
        return started[-1]

    monkeypatch.setattr("asyncio.create_subprocess_exec", lacking)
    keeper = RepackerChild(path, packed.set)
    working = asyncio.create_task(keeper.run())
    try:
        async with asyncio.timeout(10):
            await packed.wait()
        assert (len(tries), keeper.notes()) == (3, [])
        assert await started[0].wait() == 0
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
