"""Names of branches, also those that other programs made, and one bad branch among good changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import DeleteBranch, List, ListBranches
from jitsu_protocol.model.errors import BadRequest, Refused, Unavailable
from jitsu_protocol.model.vm import to_tree
from jitsu_store.git.references import branch_names
from jitsu_store.rules.refusals import MAX_BRANCH_PARTS, MAX_BRANCHES_OF_VM
from jitsu_store.wires.disk import open_repository
from tests.support.store import ME, running
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

DEEP = "/".join(["a", *["b"] * 150])
LONG = "c" * 240


async def test_a_branch_150_levels_deep_hides_no_other_and_can_be_deleted(tmp_path: Path) -> None:
    vm = make_vm()
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(vm)))
        await store.branch("z")
        serial = (await store.server.reader.list(List())).serial
        for name in (DEEP, LONG):  # as another program, or an earlier version, would make it
            path = tmp_path / "db" / "refs" / "heads" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(store.git("rev-parse", "master"))
    async with running(tmp_path / "db") as store:
        listed = [each.name for each in (await store.server.reader.list_branches(ListBranches())).branches]
        assert listed == sorted([DEEP, LONG, "master", "z"])
        assert (await store.server.reader.list(List())).serial == serial
        await store.apply({"a": "2"})
        assert store.git("show", "master:a") == "2"
        for name in (DEEP, LONG):
            await store.server.delete_branch(DeleteBranch(name=name, author=ME))
        assert store.git("for-each-ref", "--format=%(refname:short)").split() == ["master", "z"]
        await store.branch("a")  # the directories of the deep one are no obstacle


async def test_packed_and_loose_branches_are_found_as_git_finds_them(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        for name in ("x/y", "x/z", "v1", "ü"):
            await store.branch(name)
        store.git("pack-refs", "--all")
        store.git("update-ref", "-d", "refs/heads/x/z")
        await store.apply({"a": "2"})
        store.git("-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "-a", "-m", "t", "t", "master")
        store.git("pack-refs", "--no-all")
        expected = store.git("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").split()
        assert branch_names(tmp_path / "db") == sorted(expected) == ["master", "v1", "x/y", "ü"]
        heads = open_repository(tmp_path / "db").branches()
        assert {name: head.hex() for name, head in heads.items()} == {
            name: store.git("rev-parse", f"refs/heads/{name}").strip() for name in expected
        }


@pytest.mark.parametrize("name", ["x" * 201, "ü" * 101, "/".join("x" * (MAX_BRANCH_PARTS + 1)), DEEP])
async def test_a_branch_that_is_too_long_or_too_deep_is_refused(tmp_path: Path, name: str) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        with pytest.raises(BadRequest, match="the name of a branch has at most"):
            await store.branch(name)
        await store.branch("/".join("x" * MAX_BRANCH_PARTS))
        await store.branch("y" * 200)


async def test_a_vm_has_a_bounded_number_of_branches(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    async with running(tmp_path / "db") as store:
        await store.apply(to_tree(one) | to_tree(two))
        for number in range(MAX_BRANCHES_OF_VM):
            await store.branch(f"{one.uuid}-{number}", who=f"vm:{one.uuid}")
        with pytest.raises(Refused, match="at most"):
            await store.branch(f"{one.uuid}-x", who=f"vm:{one.uuid}")
        await store.branch(f"{one.uuid}-0", who=f"vm:{one.uuid}")  # it is there already
        await store.branch(two.uuid, who=f"vm:{two.uuid}")
        await store.server.delete_branch(DeleteBranch(name=f"{one.uuid}-0", author=f"vm:{one.uuid}"))
        await store.branch(f"{one.uuid}-x", who=f"vm:{one.uuid}")


async def test_a_branch_that_the_disk_refuses_fails_no_other_change_that_comes_with_it(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "0"})
        (tmp_path / "db" / "refs" / "heads" / "bad.lock").touch()  # another program is at it, or has died there
        results = await asyncio.gather(
            store.apply({"a": "1"}, request="r1"),
            store.branch("bad"),
            store.apply({"b": "2"}, request="r2"),
            store.branch("good"),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [str, Unavailable, str, type(None)]
        assert await store.leaves() == {"a": "1", "b": "2"}
        assert store.git("log", "--format=%H", "--reverse").split()[1:] == [results[0], results[2]]
        assert await store.apply({"a": "1"}, request="r1") == results[0]
        assert await store.leaves("good") == {"a": "1", "b": "2"}
        store.git("fsck", "--strict")


async def test_a_disk_that_fails_between_two_branches_leaves_the_store_where_they_stand(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "0"})
        await store.branch("try")
        (tmp_path / "db" / "refs" / "heads" / "new").mkdir()
        (tmp_path / "db" / "refs" / "heads" / "new" / "what-git-does-not-expect.txt").touch()
        results = await asyncio.gather(
            store.apply({"a": "1"}), store.branch("new"), store.apply({"a": "2"}, "try"), return_exceptions=True
        )
        assert [type(each) for each in results] == [str, Unavailable, str]
        await store.apply({"a": "3"})
        assert (await store.leaves(), await store.leaves("try")) == ({"a": "3"}, {"a": "2"})


async def test_a_message_of_any_length_does_not_land(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        with pytest.raises(BadRequest, match="the message of a change"):
            await store.apply({"a": "1"}, request="r" * 1000)
