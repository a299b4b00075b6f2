from __future__ import annotations

import pytest

from jitsu_protocol.inventory import Inventory
from jitsu_protocol.messages import Change
from jitsu_protocol.vm import to_tree
from jitsu_store.rules import tree
from jitsu_store.rules.validate import path_reasons, touched_vms, vm_reasons
from tests.support.vms import make_vm


@pytest.mark.parametrize(
    "path", ["", "a//b", "a/./b", "../a", "a/.GIT/b", "a\x00b", "a\nb", "a" * 256, "/".join("a" * 600)]
)
def test_paths_that_git_could_not_hold_are_refused(path: str) -> None:
    assert tree.path_fault(path)


def test_a_value_can_have_nothing_below_it_nor_stand_where_something_is_below() -> None:
    leaves = {"a/b": "1"}
    assert path_reasons(leaves, {"a/b/c": "2"}) == ["a/b is a value, so nothing can be below it"]
    assert path_reasons(leaves, {"a": "2"}) == ["a has values below it, so it cannot be one"]
    assert path_reasons(leaves, {"a/b": None, "a/b/c": "2"}) == []


def test_only_what_differs_is_a_change_and_the_last_one_counts() -> None:
    changes = [Change(path="/a/", value="1"), Change(path="b", value="2"), Change(path="b", value="3")]
    assert tree.changed({"a": "1"}, changes) == {"b": "3"}


def test_the_nearest_path_is_offered() -> None:
    assert tree.nearest(["jitsu/vm/1/ip"], "jitsu/vm/1/pi") == "did you mean jitsu/vm/1/ip?"


def test_below_is_by_component() -> None:
    assert tree.below({"a/b": "1", "ab": "2", "a": "3"}, "/a") == {"a/b": "1", "a": "3"}


def test_every_reason_is_told_and_a_vm_that_was_broken_before_does_not_stand_in_the_way() -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    inventory = Inventory()
    inventory.reset(to_tree(one) | to_tree(two) | {"jitsu/vm/broken/ip": "x"})
    assert vm_reasons(inventory, {one.uuid}) == []
    changes = {f"jitsu/vm/{two.uuid}/ip": "127.0.1.1", f"jitsu/vm/{one.uuid}/stop_mode": "explode"}
    inventory.apply(changes.items())
    (reason,) = vm_reasons(inventory, touched_vms(changes))
    assert "explode" in reason
    inventory.apply([(f"jitsu/vm/{one.uuid}/stop_mode", "destroy")])
    assert touched_vms(changes) == {one.uuid, two.uuid}
    assert vm_reasons(inventory, {two.uuid}) == [f"jitsu/vm/{two.uuid}: ip: 127.0.1.1 belongs to the VM one already"]
