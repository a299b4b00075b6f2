from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.model.inventory import Inventory
from jitsu_protocol.model.vm import to_tree
from tests.support.vms import make_vm

VMS = [make_vm(name, f"127.0.1.{number}") for number, name in enumerate("abc", start=1)]


def test_each_vm_that_is_added_changed_or_removed_is_returned_once() -> None:
    inventory = Inventory()
    vm = VMS[0]
    (came,) = inventory.reset(to_tree(vm))
    assert (came.old, came.new) == (None, vm)
    assert inventory.reset(to_tree(vm)) == []
    (changed,) = inventory.apply([(f"jitsu/vm/{vm.uuid}/response_delay", "0.5")])
    assert changed.new is not None
    assert changed.new.response_delay == 0.5
    (gone,) = inventory.apply([(path, None) for path in to_tree(vm)])
    assert (gone.new, inventory.vms) == (None, {})


def test_leaves_with_the_same_meaning_make_the_same_vm() -> None:
    """Code that refers to the VM would otherwise compare it with a second one of the same name and addresses."""
    inventory = Inventory()
    inventory.reset(to_tree(VMS[0]))
    before = inventory.vms[VMS[0].uuid]
    assert inventory.apply([(f"jitsu/vm/{VMS[0].uuid}/stop_mode", None)]) == []
    assert inventory.vms[VMS[0].uuid] is before


def test_g9_a_broken_vm_is_left_out_and_the_others_stay() -> None:
    inventory = Inventory()
    inventory.reset(to_tree(VMS[0]) | to_tree(VMS[1]) | {"jitsu/stats/x/start_ts": "1"})
    inventory.apply([(f"jitsu/vm/{VMS[0].uuid}/ip", "nonsense")])
    assert list(inventory.vms.values()) == [VMS[1]]
    assert "nonsense" in inventory.faults[VMS[0].uuid]
    inventory.apply([(f"jitsu/vm/{VMS[0].uuid}/ip", "127.0.1.1")])
    assert inventory.faults == {}


def test_a_vm_that_a_service_cannot_work_with_is_left_out_and_named_in_the_notes() -> None:
    def check(vm: object) -> None:
        if vm == VMS[0]:
            raise ValueError("no room for it")

    inventory = Inventory(check)
    came = inventory.reset(to_tree(VMS[0]) | to_tree(VMS[1]) | {"jitsu/vm/broken/ip": "x"})
    assert [change.new for change in came] == [VMS[1]]
    assert inventory.notes(inventory.refused) == [f"VM a ({VMS[0].uuid}) is left out: no room for it"]
    assert set(inventory.new_faults) == {VMS[0].uuid, "broken"}
    inventory.new_faults.clear()
    inventory.apply([(f"jitsu/vm/{VMS[1].uuid}/response_delay", "0.5")])
    assert inventory.new_faults == {}, "each is reported once"
    many = Inventory(check)
    many.reset({f"jitsu/vm/{number}/ip": "x" for number in range(1000)})
    assert len(many.notes(many.faults)) == 6
    assert many.notes(many.faults)[-1] == "995 more VMs are left out; the log has each with its reason"


@given(st.lists(st.tuples(st.sampled_from(VMS), st.booleans()), max_size=20))
def test_changes_one_by_one_lead_to_the_same_vms_as_a_snapshot(steps: list[tuple[object, bool]]) -> None:
    inventory, tree = Inventory(), dict[str, str]()
    for vm, present in steps:
        paths = to_tree(vm)  # type: ignore[arg-type]
        inventory.apply((path, value if present else None) for path, value in paths.items())
        tree = {k: v for k, v in tree.items() if k not in paths} | (paths if present else {})
    fresh = Inventory()
    fresh.reset(tree)
    assert inventory.vms == fresh.vms
