"""Holds as leaves of the state tree."""

from __future__ import annotations

import pytest

from jitsu_protocol.model.holds import ALL, Hold, hold_of, holds_in, path_of


@pytest.mark.parametrize(
    "hold",
    [Hold(), Hold(1764322800.0, "operator:anna", "a new disk"), Hold(0.0, "operator:anna"), Hold(5.0, "vm:x", "a  b")],
)
def test_a_hold_is_read_as_it_was_written(hold: Hold) -> None:
    assert Hold.read(hold.text()) == hold


@pytest.mark.parametrize("text", ["", "soon", "nan x y", "-4 x", "inf", "\x00", "9" * 400])
def test_a_leaf_that_cannot_be_read_holds_until_it_is_removed(text: str) -> None:
    assert Hold.read(text).until == 0.0
    assert len(Hold.read(f"0 {'b' * 999} {'r' * 999}").text()) < 500
    assert holds_in({path_of("v"): text}, 10.0).keys() == {"v"}


def test_a_hold_ends_in_time_and_the_hold_of_a_vm_outranks_that_of_all_vms() -> None:
    leaves = {path_of(ALL): "100 anna", path_of("v"): "0 bert", path_of("w"): "50 carl", "jitsu/vm/v/ip": "x"}
    assert set(holds_in(leaves, 49.9)) == {ALL, "v", "w"}
    assert set(holds_in(leaves, 50.0)) == {ALL, "v"}
    holds = holds_in(leaves, 50.0)
    assert [hold.by if (hold := hold_of(holds, vm)) else "" for vm in ("v", "w")] == ["bert", "anna"]
    assert hold_of(holds_in(leaves, 100.0), "w") is None
