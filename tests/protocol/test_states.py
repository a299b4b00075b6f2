from __future__ import annotations

from jitsu_protocol.model.states import AT_REST, FOLLOWS, VmState, may_follow


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(FOLLOWS) == set(VmState)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {after for row in FOLLOWS.values() for after in row}
    assert reached == set(VmState)
    assert all(FOLLOWS.values())


def test_a_vm_never_becomes_ready_without_having_booted() -> None:
    assert {state for state in VmState if may_follow(state, VmState.READY)} == {VmState.BOOTING, VmState.DRAINING}


def test_every_state_at_rest_may_start() -> None:
    assert all(may_follow(state, VmState.STARTING) for state in AT_REST)
    assert not any(may_follow(state, VmState.STARTING) for state in set(VmState) - AT_REST)
