"""What the commands that change VMs do with those that labels describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from jitsu.consent import after
from jitsu.labelled import comes_back, labelled, untouched
from jitsu_protocol.changes import changes_for
from jitsu_protocol.messages import Branch, BranchList, Commit, Leaves
from jitsu_protocol.model.vm import VM_ROOT, to_tree
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu.link import Link
    from jitsu_protocol.messages import Request

MINE, WEB = make_vm("mine", "10.0.0.1"), make_vm("web", "10.0.0.2")
TREE = to_tree(MINE) | to_tree(WEB)


class PlayedBranches:
    """A store with these branches."""

    def __init__(self, branches: dict[str, dict[str, str]]) -> None:
        self._branches = branches

    async def call(self, _: str, request: Request, __: type[Any], ___: float) -> Any:
        at = Commit(id="c", ts=0.0, author="service:vmd", message="")
        if request.kind == "store.branches":
            return BranchList(branches=[Branch(name=each, commit=at) for each in self._branches], epoch="e", number=0)
        return Leaves(leaves=self._branches[cast("Any", request).branch], commit="c", epoch="e", number=0)


async def test_the_vms_of_all_label_branches_count_and_those_of_others_do_not() -> None:
    store = PlayedBranches({"master": TREE, "labels": to_tree(WEB), "labels-b": {"x": "1"}, "labelsome": {"y": "1"}})
    assert await labelled(cast("Link", store)) == to_tree(WEB) | {"x": "1"}


def test_applying_a_file_does_not_remove_what_labels_describe() -> None:
    assert changes_for([MINE], TREE, exact=True, of_labels=to_tree(WEB)) == []
    assert {change.value for change in changes_for([MINE], TREE, exact=True)} == {None}


def test_applying_a_file_makes_such_a_vm_what_labels_say_if_somebody_has_changed_it() -> None:
    path = f"{VM_ROOT}/{WEB.uuid}/idle_timeout"
    changes = changes_for([MINE], TREE | {path: "900"}, exact=True, of_labels=to_tree(WEB))
    assert after(TREE | {path: "900"}, changes) == TREE


def test_a_vm_that_is_in_the_file_is_what_the_file_says() -> None:
    other = make_vm("web", "10.0.0.9")
    changes = changes_for([MINE, other], TREE, exact=True, of_labels=to_tree(WEB))
    assert after(TREE, changes) == to_tree(MINE) | to_tree(other)


def test_what_is_just_as_labels_say_is_found() -> None:
    assert untouched(TREE, to_tree(WEB)) == {WEB.uuid}
    assert untouched(TREE | {f"{VM_ROOT}/{WEB.uuid}/idle_timeout": "900"}, to_tree(WEB)) == set()


def test_whoever_removes_a_vm_that_labels_describe_is_told_that_it_comes_back() -> None:
    assert comes_back([MINE.uuid], to_tree(WEB)) == []
    assert comes_back([MINE.uuid, WEB.uuid], to_tree(WEB)) == [
        "note: labels describe web; as long as they do, vmd adds that again"
    ]
