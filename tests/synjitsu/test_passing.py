"""A SYN that passes the bridge at the moment at which the guest shows itself."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules.handover import PASSING_S
from tests.support.frames import ACK, SYN, answer_to, tcp
from tests.synjitsu.test_handover import BOTH, Synjitsu, ports


@BOTH
@pytest.mark.parametrize("brought", [True, False])
def test_a_syn_that_passes_the_bridge_as_the_guest_shows_itself_is_not_lost(
    addresses: tuple[bytes, bytes], brought: bool
) -> None:
    made = Synjitsu(addresses)
    assert made.announces(0.3) == []
    assert made.told == ["v"]
    syn = tcp(1, 80, addresses=addresses)
    ((what, probe),) = made.takes(syn, 0.3 + PASSING_S / 2)
    assert what == "probe"
    if brought:
        made.takes(answer_to(syn, SYN | ACK), 0.3015)
    assert ports(made.replies(probe, SYN | ACK, 0.302)) == ([] if brought else [1])
    assert made.told == ["v"], "it is told once"
    made.at(0.3 + PASSING_S)
    assert made.arming.next_deadline() is None


def test_a_syn_that_comes_later_is_the_guests_own() -> None:
    made = Synjitsu()
    made.announces(0.3)
    assert made.takes(tcp(1, 80), 0.3 + PASSING_S) == []
    made.at(0.3 + PASSING_S)
    assert made.arming.next_deadline() is None
