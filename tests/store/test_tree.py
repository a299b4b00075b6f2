from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Change
from jitsu_store.rules import tree
from jitsu_store.rules.config_keys import config_fault
from jitsu_store.rules.tree import LeafTree
from tests.support.store import running

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path", ["", "a//b", "a/./b", "../a", "a/.GIT/b", "a\x00b", "a\nb", "a" * 256, "/".join("a" * 65)]
)
def test_paths_that_git_could_not_hold_are_refused(path: str) -> None:
    assert tree.path_fault(path)


PIECES = [".git", "git", "GIT", ".", "~1", "~", "1", "2", "9", " ", ":", "\\", "modules", "ignore", "attributes"]
PIECES += ["mod", "gi7eba", "gi7d29", "mailmap", "::$INDEX_ALLOCATION", "a", "\u200c", "\u0131", "é", "x" * 120]


def test_git_fsck_finds_no_fault_with_any_path_that_is_taken(tmp_path: Path) -> None:
    names = {"".join(parts) for count in (1, 2, 3) for parts in itertools.product(PIECES, repeat=count)}
    taken = sorted(name for name in names if not tree.path_fault(name))
    assert len(taken) > 1000
    for name in ("git~1", "GIT~1", ".gitmodules", ".git ", ".git.", ".git:x", "a\\.git", "gi7eba~1", ".gitattributes"):
        assert tree.path_fault(f"jitsu/{name}/x"), name
    with_git_names = (["git~1"], False), (taken, True)
    for held, is_clean in with_git_names:
        repository = pygit2.init_repository(str(tmp_path / str(is_clean)), bare=True)
        blob = repository.create_blob(b"[submodule]\n" * 3000)
        raw = b"".join(b"100644 %s\0" % name.encode() + blob.raw for name in sorted(held, key=str.encode))
        pygit2.settings.enable_strict_object_creation(False)
        directory = repository.odb.write(pygit2.enums.ObjectType.TREE, raw)
        signature = pygit2.Signature("a", "a@example.org", 1, 0)
        repository.create_commit("refs/heads/master", signature, signature, "Why", directory, [])
        judged = subprocess.run(["git", "fsck", "--strict"], cwd=repository.path, capture_output=True, check=False)
        assert (judged.returncode == 0) == is_clean, judged.stderr


def test_unknown_keys_below_a_vms_configuration_are_refused() -> None:
    assert config_fault("jitsu/vm/u/config/disk/0") == config_fault("jitsu/vm/u/ip") == ""
    assert config_fault("jitsu/vm/u/config/disc/0").endswith("a VM has no such key; did you mean disk?")
    for path in ("config/disk", "config/disk/x", "config/disk/0/1", "config/zzz/0"):
        assert config_fault(f"jitsu/vm/u/{path}"), path


def test_a_value_can_have_nothing_below_it_nor_stand_where_something_is_below() -> None:
    held = LeafTree({"a/b": "1"})
    assert held.put({"a/b/c": "2"}) == ({}, ["a/b is a value, so nothing can be below it"])
    assert held.put({"a": "2"}) == ({}, ["a has values below it, so it cannot be one"])
    assert held.put({"a/b": None, "a/b/c": "2"}) == ({"a/b": "1", "a/b/c": None}, [])
    assert held.below() == {"a/b/c": "2"}


def test_the_last_change_of_a_path_counts() -> None:
    changes = [Change(path="/a/", value="1"), Change(path="b", value="2"), Change(path="b", value="3")]
    assert tree.wanted(changes) == {"a": "1", "b": "3"}


def test_the_nearest_path_is_offered() -> None:
    held = LeafTree({"jitsu/vm/1/ip": "1", "jitsu/stats/1": "1"})
    assert held.nearest("jitsu/vm/1/pi") == "did you mean jitsu/vm/1/ip?"
    assert held.nearest("jitsu/mv") == "did you mean jitsu/vm?"
    assert held.nearest("jitsu/vm/1/ip/x") == "did you mean jitsu/vm/1/ip?"
    assert held.nearest("jitsu/zzz") == "jitsu has stats, vm"
    assert held.nearest("quite/other") == ""


def test_below_is_by_component() -> None:
    held = LeafTree({"a/b": "1", "ab": "2"})
    assert held.below("/a") == {"a/b": "1"}
    assert held.below("ab") == {"ab": "2"}
    assert held.below("a/b/c") == held.below("x") == {}
    assert tree.is_below("a/b", "a")
    assert not tree.is_below("ab", "a")


paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
changes = st.dictionaries(paths, st.none() | st.sampled_from(["1", "2"]), max_size=6)


@given(st.lists(changes, max_size=6), changes)
def test_what_was_changed_can_be_taken_back(before: list[dict[str, str | None]], last: dict[str, str | None]) -> None:
    held = LeafTree()
    for each in before:
        held.put(each)
    was = held.below()
    undo, reasons = held.put(last)
    made = held.below()
    assert len(held) == len(made)
    if not reasons:
        assert made == {p: v for p, v in (was | last).items() if v is not None}
    again, nothing = held.put(undo)
    assert (held.below(), nothing) == (was, [])
    held.put(again)
    assert held.below() == made


async def test_a_value_may_take_the_place_of_what_was_below_it_and_the_other_way_round(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a/b/c": "1", "a/b/d": "1"})
        await store.apply({"a/b/c": None, "a/b/d": None, "a/b": "2"})
        assert store.git("show", "master:a/b") == "2"
        await store.apply({"a/b": None, "a/b/e/f": "3"})
        assert store.git("ls-tree", "-r", "--name-only", "master").split() == ["a/b/e/f"]
        store.git("fsck", "--strict")
    async with running(tmp_path / "db") as store:
        assert await store.leaves() == {"a/b/e/f": "3"}
