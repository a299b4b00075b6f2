from __future__ import annotations

from jitsu_protocol.vm import to_tree
from jitsu_store.rules.validate import State, touched_vms
from tests.support.vms import make_vm


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
    assert touched_vms(changes) == {one.uuid, two.uuid}


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
