"""Arm, keep, hand over, let go: as events and actions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_synjitsu.rules.arming import Arming
from jitsu_synjitsu.rules.handover import (
    TRANSITIONS,
    Announce,
    AnswerWhoHas,
    Event,
    GuestFrameSeen,
    Handover,
    HandoverState,
    PacketSeen,
    Reject,
    Replay,
)
from jitsu_synjitsu.rules.kept import Kept, Outcome


def arming(per_vm: int = 10, total: int = 100) -> Arming:
    return Arming(Kept(per_vm, total))


def test_the_table_knows_every_event_in_every_state() -> None:
    assert set(TRANSITIONS) == set(HandoverState)
    assert all(set(row) == set(Event.__args__) for row in TRANSITIONS.values())


def test_an_armed_address_is_announced_and_answered_for_and_others_are_not() -> None:
    made = arming()
    assert made.arm("v", ["10.0.0.1", "fd00::1"], 5.0) == [Announce("10.0.0.1"), Announce("fd00::1")]
    assert made.who_has("10.0.0.1", "m") == [AnswerWhoHas("10.0.0.1", "m")]
    assert made.who_has("10.0.0.2", "m") == []


def test_g4_first_packets_are_replayed_once_oldest_first_and_then_it_is_silent() -> None:
    made = arming()
    made.arm("v", ["10.0.0.1"], 5.0)
    for flow, frame in (("a", b"a1"), ("b", b"b1"), ("a", b"a2")):
        assert made.packet("10.0.0.1", flow, frame) == []
    assert made.disarm("v", "ready") == [Replay(b"a2"), Replay(b"b1")]
    assert made.disarm("v", "ready") == []
    assert made.who_has("10.0.0.1", "m") == []
    assert made.packet("10.0.0.1", "c", b"c") == []
    assert len(made.kept) == 0


def test_the_guests_own_first_frame_hands_over() -> None:
    kept = Kept(10, 10)
    machine = Handover("v", ("10.0.0.1",), 5.0, kept)
    machine.handle(PacketSeen("a", b"a"))
    assert machine.handle(GuestFrameSeen()) == [Replay(b"a")]
    assert machine.handle(GuestFrameSeen()) == []
    assert machine.handle(PacketSeen("b", b"b")) == []


@pytest.mark.parametrize("how", ["told", "late"])
def test_g4_if_the_boot_fails_the_clients_are_told(how: str) -> None:
    made = arming()
    made.arm("v", ["10.0.0.1"], 5.0)
    made.packet("10.0.0.1", "a", b"a")
    assert made.next_deadline() == 5.0
    assert made.passed(4.9) == []
    actions = made.disarm("v", "failed") if how == "told" else made.passed(5.0)
    assert actions == [Reject(b"a")]
    assert made.next_deadline() is None


def test_arming_again_only_moves_the_deadline() -> None:
    made = arming()
    made.arm("v", ["10.0.0.1"], 5.0)
    made.packet("10.0.0.1", "a", b"a")
    made.arm("v", ["10.0.0.1"], 9.0)
    assert made.passed(6.0) == []
    assert made.disarm("v", "ready") == [Replay(b"a")]


def test_what_is_kept_is_bounded_per_vm_and_in_all_and_the_oldest_goes_first() -> None:
    kept = Kept(2, 3)
    assert kept.keep("v", 1, b"1") is Outcome.KEPT
    assert kept.keep("v", 1, b"1b") is Outcome.REPLACED
    assert kept.keep("v", 2, b"2") is Outcome.KEPT
    assert kept.keep("v", 3, b"3") is Outcome.DISPLACED
    assert kept.keep("w", 1, b"w") is Outcome.KEPT
    assert kept.keep("x", 1, b"x") is Outcome.DISPLACED  # at the cost of the one that holds most
    assert (kept.take("v"), kept.take("w"), kept.take("x")) == ([(3, b"3")], [(1, b"w")], [(1, b"x")])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=60))
def test_g4_bounds_hold_and_nothing_is_given_out_twice(steps: list[tuple[int, int, bool]]) -> None:
    kept, given_out, number = Kept(4, 8), set[bytes](), 0
    for vm, flow, take in steps:
        if take:
            frames = [frame for _, frame in kept.take(str(vm))]
            assert not given_out & set(frames)
            assert frames == sorted(frames, key=frames.index)
            given_out |= set(frames)
        else:
            number += 1
            kept.keep(str(vm), flow, b"%d" % number)
        assert len(kept) <= 8
    assert all(len(kept.take(str(vm))) <= 4 for vm in range(4))
    assert len(kept) == 0
