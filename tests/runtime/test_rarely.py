"""How often an event is logged that a peer can repeat at will."""

from __future__ import annotations

from jitsu_runtime.rarely import QUIET_S, Rarely
from tests.support.clock import VirtualClock


def test_one_event_of_each_kind_is_logged_in_ten_seconds() -> None:
    clock = VirtualClock()
    rarely = Rarely(clock)
    assert [rarely.is_due("a"), rarely.is_due("a"), rarely.is_due("b")] == [True, False, True]
    clock.advance(QUIET_S)
    assert not rarely.is_due("a")
    clock.advance(0.001)
    assert rarely.is_due("a")


def test_the_first_event_is_logged_whatever_the_clock_says() -> None:
    assert Rarely(VirtualClock()).is_due()
