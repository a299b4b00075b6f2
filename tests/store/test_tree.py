from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Change
from jitsu_store.rules import tree
from jitsu_store.rules.tree import LeafTree


@pytest.mark.parametrize(
    "path", ["", "a//b", "a/./b", "../a", "a/.GIT/b", "a\x00b", "a\nb", "a" * 256, "/".join("a" * 600)]
)
def test_paths_that_git_could_not_hold_are_refused(path: str) -> None:
    assert tree.path_fault(path)


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
