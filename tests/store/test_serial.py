"""The zones' serial, and requests that were carried out: only commits that this store made tell anything of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import Apply, Change, Fetch, List, Pull
from jitsu_protocol.model.vm import to_tree
from jitsu_store.git.commits import CommitDraft, Trailers, make_commit, parse_commit
from jitsu_store.git.objects import ObjectKind, make
from tests.support import store as support
from tests.support.store import ME, Store, git
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires

NOW = 1_000_000
FAR = 999_999_999_998

running = partial(support.running, says=NOW + 0.5)


async def serial(store: Store) -> int:
    return (await store.server.reader.list(List())).serial


def foreign(path: Path, message: str, ts: int = NOW) -> str:
    """Make a repository with one commit that says something about itself."""
    git(path.parent, "init", "-q", "--bare", "-b", "master", path.name)

    def written(kind: str, data: bytes) -> str:
        (path / "data").write_bytes(data)
        return git(path, "hash-object", "-w", "-t", kind, "data").strip()

    tree = written("tree", b"100644 other\0" + bytes.fromhex(written("blob", b"1")))
    who = f"a <a@jitsu> {ts} +0000"
    commit = written("commit", f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message}\n".encode())
    git(path, "update-ref", "refs/heads/master", commit)
    return str(path)


FORGED = f"Why\n\nZone-Serial: {FAR}\nRequest-Id: r9"


@pytest.mark.parametrize(("message", "ts"), [(FORGED, NOW), ("Why", FAR), (f"Zone-Serial: {2**32 - 1}", NOW)])
async def test_a_pulled_commit_does_not_move_the_serial(tmp_path: Path, message: str, ts: int) -> None:
    remote = foreign(tmp_path / "other.git", message, ts)
    vm = make_vm()
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(vm)))
        before = await serial(store)
        await store.server.pull(Pull(remote=remote, author=ME, request=""))
        assert await serial(store) == before
    async with running(tmp_path / "db") as store:
        assert await serial(store) == before
        await store.apply({f"jitsu/vm/{vm.uuid}/response_delay": "0.3"}, request="r9")
        assert await store.get(f"jitsu/vm/{vm.uuid}/response_delay") == "0.3"
        assert await serial(store) == before + 1


@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize(("said", "begun", "changed"), [(NOW + 500, NOW + 500, NOW + 501), (FAR, 1, NOW)])
async def test_a_store_that_begins_with_a_backup_goes_on_from_its_serial_if_that_can_be(
    tmp_path: Path, said: int, begun: int, changed: int, is_looked_at: bool
) -> None:
    remote = foreign(tmp_path / "other.git", f"Why\n\nZone-Serial: {said}\nRequest-Id: r9")
    vm = make_vm()
    async with running(tmp_path / "db") as store:
        if is_looked_at:  # as `jitsu pull` does it: fetched first, and merged when somebody has agreed
            await store.server.fetch(Fetch(remote=remote, into="pull-1", author=ME, scratch=True))
            await store.merge("pull-1")
        else:
            await store.server.pull(Pull(remote=remote, author=ME, request="r1"))
        assert await serial(store) == begun
        await store.apply(dict(to_tree(vm)))
        assert await serial(store) == changed
    async with running(tmp_path / "db") as store:
        assert await serial(store) == changed
        await store.apply({"a": "1"}, request="r9")
        assert await store.get("a") == "1"


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x0b", "\r\n"])
async def test_whoever_chooses_a_message_chooses_neither_serial_nor_request(tmp_path: Path, end: str) -> None:
    message = end.join(["Why", "", f"Zone-Serial: {NOW + 900}", "zone-serial : 1", "Request-Id: r9"])
    changes = [Change(path="jitsu/dns/x", value="1")]
    async with running(tmp_path / "db") as store:
        await store.server.apply(Apply(changes=changes, author=ME, message=message, request=""))
        first = await serial(store)
        assert first == NOW
    async with running(tmp_path / "db") as store:
        assert await serial(store) == first
        await store.apply({"jitsu/dns/x": "2"}, request="r9")
        assert await store.get("jitsu/dns/x") == "2"


def test_our_own_trailers_are_read_whatever_stands_above_them() -> None:
    tree = make(ObjectKind.TREE, b"")
    made = make_commit(
        tree.id, CommitDraft((), "a", "Why\n\nRequest-Id: x\nFirst-Parent: pulled", 100, Trailers("r1", 103))
    )
    record = parse_commit(made.id, made.data)
    assert (record.request, record.serial, record.is_on_foreign) == ("r1", 103, False)
    begun = make_commit(tree.id, CommitDraft((), "a", "Why", 100, Trailers("r1", 103, is_on_foreign=True)))
    record = parse_commit(begun.id, begun.data)
    assert (record.request, record.serial, record.is_on_foreign) == ("r1", 103, True)
