from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import to_tree
from jitsu_store.rules import validate
from jitsu_store.rules.validate import State
from tests.support.vms import make_vm

if TYPE_CHECKING:
    import pytest


def test_every_reason_is_told_and_a_vm_that_was_broken_before_does_not_stand_in_the_way() -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    state = State(to_tree(one) | to_tree(two) | {"jitsu/vm/broken/ip": "x"})
    assert set(state.faults()) == {"broken"}
    changes = {f"jitsu/vm/{two.uuid}/ip": "127.0.1.1", f"jitsu/vm/{one.uuid}/stop_mode": "explode"}
    undo, reasons = state.put(changes)
    assert len(reasons) == 1
    assert "explode" in reasons[0]  # as long as it is broken, one holds no address that two could clash with
    state.undo(undo)
    _, reasons = state.put({f"jitsu/vm/{two.uuid}/ip": "127.0.1.1"})
    assert reasons == [f"jitsu/vm/{two.uuid} (two): ip: 127.0.1.1 belongs to the VM one already"]


def test_vms_that_clash_because_others_wrote_the_tree_are_noted_until_they_do_not() -> None:
    one, two, three = (make_vm(name, f"127.0.1.{number}") for name, number in (("one", 1), ("two", 1), ("three", 3)))
    state = State(to_tree(one) | to_tree(two) | to_tree(three))
    assert state.notes() == [], "nobody has looked yet"
    while state.find_clashes(1):
        pass
    assert sorted(state.notes()) == [
        "VM one clashes with another: ip: 127.0.1.1 belongs to the VM two already",
        "VM two clashes with another: ip: 127.0.1.1 belongs to the VM one already",
    ]
    assert state.put({f"jitsu/vm/{two.uuid}/ip": "127.0.1.2"})[1] == []
    assert state.notes() == []


def test_what_is_tried_and_taken_back_leaves_no_trace() -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    state = State(to_tree(one))
    undo, reasons = state.put(to_tree(two))
    assert reasons == []
    state.undo(undo)
    assert state.tree.below() == to_tree(one)
    other = make_vm("other", "127.0.1.2")
    assert state.put(to_tree(other))[1] == []
    assert "belongs to the VM other" in state.put(to_tree(two))[1][0]


def test_a_value_must_be_text_and_of_a_size() -> None:
    state = State({})
    _, reasons = state.put({"a": "x" * 2_000_000, "b": "\udc80", "../c": "1"})
    assert len(reasons) == 3
    assert state.tree.below() == {}


def test_a_vm_and_the_tree_have_a_size_and_what_is_too_large_may_only_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_vm("one", "127.0.1.1")
    start = f"jitsu/vm/{one.uuid}/config/disk"
    disks: dict[str, str | None] = {f"{start}/{n}": "/" + "d" * 4000 for n in range(200)}
    state = State(to_tree(one))
    undo, reasons = state.put(disks)
    assert any("bytes of paths and values, 524288 are allowed" in reason for reason in reasons)
    state.undo(undo)
    assert state.put({path: disks[path] for path in list(disks)[:100]})[1] == []
    grown = State(to_tree(one) | {path: str(value) for path, value in disks.items()})
    assert grown.put({f"{start}/0": None})[1] == []
    assert grown.put({f"{start}/0": "/x"})[1]
    monkeypatch.setattr(validate, "MAX_TREE_BYTES", 2000)
    full = State({"a": "x" * 1500})
    assert full.put({"b": "x" * 600})[1] == ["the tree would have 2102 bytes of paths and values, 2000 are allowed"]
    assert full.put({"a": None, "b": "x" * 600})[1] == []


def test_a_vm_that_was_larger_before_there_was_a_limit_is_noted() -> None:
    one = make_vm("one", "127.0.1.1")
    large = State(to_tree(one) | {f"jitsu/vm/{one.uuid}/config/cmdline/{n}": "x" * 1_000_000 for n in range(5)})
    large.prepare()
    assert any("is left out: it has 500" in note for note in large.notes())


def test_what_another_program_wrote_is_there_again_when_its_removal_is_refused() -> None:
    one = make_vm("one", "127.0.1.1")
    odd = f"jitsu/vm/{one.uuid}/config/no-such-key/0"
    leaves = to_tree(one) | {odd: "1"}
    state = State(leaves)
    undo, reasons = state.put({odd: None, f"jitsu/vm/{one.uuid}/ip": "nowhere"})
    assert reasons
    state.undo(undo)
    assert state.tree.below() == leaves
