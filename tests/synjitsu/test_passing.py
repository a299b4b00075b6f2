"""A SYN that passes the bridge at the moment at which the guest shows itself."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules.handover import PASSING_S
from tests.support.frames import ACK, SYN, answer_to, tcp, udp
from tests.synjitsu.test_handover import BOTH, Synjitsu, ports, whats


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


@BOTH
@pytest.mark.parametrize("brought", [True, False], ids=["the bridge delivers it", "the bridge does not deliver it"])
def test_g4_a_syn_that_follows_a_datagram_whose_client_the_guest_is_known_to_reach_is_answered_once(
    addresses: tuple[bytes, bytes], brought: bool
) -> None:
    """The port is known to listen and the client to be reached, so the SYN seems to need no further proof."""
    made = Synjitsu(addresses)
    made.takes(udp(2, 80, b"hello", addresses), 0.1)
    ((_, probe),) = made.announces(0.3)
    assert whats(made.replies(probe, SYN | ACK, 0.3005)) == ["probe", "replay"]
    syn = tcp(1, 80, addresses=addresses)
    ((what, second),) = made.takes(syn, 0.301)
    assert what == "probe"
    if brought:
        made.takes(answer_to(syn, SYN | ACK), 0.3012)
    assert ports(made.replies(second, SYN | ACK, 0.3013)) == ([] if brought else [1])
    assert ports(made.at(1.0)) == []


def test_g4_an_answer_to_a_probe_that_was_sent_before_a_syn_came_proves_nothing_about_that_syn() -> None:
    made = Synjitsu()
    made.takes(udp(2, 80, b"hello"), 0.1)
    ((_, probe),) = made.announces(0.3)
    syn = tcp(1, 80)
    ((what, second),) = made.takes(syn, 0.3004)
    assert what == "probe"
    assert ports(made.replies(probe, SYN | ACK, 0.3005), "replay") == [2], "the datagram alone"
    made.takes(answer_to(syn, SYN | ACK), 0.3006)
    assert ports(made.replies(second, SYN | ACK, 0.3007)) == []
