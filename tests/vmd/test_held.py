"""Having Synjitsu hold addresses."""

from __future__ import annotations

from jitsu_vmd.wires.held import ARM_LIMIT_S, BUSY_LIMIT_S, RECENT_S, ArmPatience


def test_synjitsu_is_waited_for_longer_while_it_answers_others() -> None:
    patience = ArmPatience()
    assert patience.limit_s(100.0) == ARM_LIMIT_S, "it has never answered"
    patience.note(100.0, answered=True)
    assert patience.limit_s(100.0 + RECENT_S - 0.1) == BUSY_LIMIT_S
    assert patience.limit_s(100.0 + RECENT_S) == ARM_LIMIT_S
    patience.note(101.0, answered=False)
    assert patience.limit_s(101.0) == ARM_LIMIT_S, "it has gone: not every boot waits for it"
