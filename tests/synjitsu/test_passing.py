"""A SYN that passes the bridge at the moment at which the guest shows itself."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.handover_state import PASSING_S
from jitsu_synjitsu.rules.presence import PASSING_LIMIT_S
from jitsu_synjitsu.rules.probes import RETRY_S
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
    assert made.addresses.deadline() is None


def test_a_syn_that_comes_later_is_the_guests_own() -> None:
    made = Synjitsu()
    made.announces(0.3)
    assert made.takes(tcp(1, 80), 0.3 + PASSING_S) == []
    made.at(0.3 + PASSING_S)
    assert made.addresses.deadline() is None


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
    assert made.takes(syn, 0.3004) == [], "a probe to that port is under way"
    sent = made.replies(probe, SYN | ACK, 0.3005)
    assert ports(sent) == [2], "the datagram alone"
    (second,) = [frame for what, frame in sent if what == "probe" and frames.read(frame).flags == SYN]
    made.takes(answer_to(syn, SYN | ACK), 0.3006)
    assert ports(made.replies(second, SYN | ACK, 0.3007)) == []


def test_many_syns_of_one_client_that_pass_at_once_cost_one_probe_at_a_time() -> None:
    made = Synjitsu()
    made.announces(0.3)
    sent = [each for n in range(9) for each in made.takes(tcp(n + 1, 80), 0.301 + n / 10_000)]
    assert whats(sent) == ["probe"]
    sent = made.replies(sent[0][1], SYN | ACK, 0.302)
    assert ports(sent) == [1], "the one that came before the probe was sent"
    second = sent[-1][1]
    assert ports(made.replies(second, SYN | ACK, 0.303)) == list(range(2, 10))


def test_a_syn_that_passed_and_about_which_nothing_is_proven_is_left_to_the_clients_own_repetition() -> None:
    made = Synjitsu()
    made.announces(0.3)
    made.takes(tcp(1, 80), 0.32)
    now = 0.32
    while now < 0.32 + PASSING_LIMIT_S:
        now += RETRY_S
        assert set(whats(made.at(now))) <= {"probe"}
    assert made.addresses.deadline() is None


def test_a_syn_whose_guest_loses_its_port_a_moment_after_its_first_frame_is_not_lost() -> None:
    """The kernel may turn a new tap off and on again, and the bridge forgets the guest in between."""
    made = Synjitsu()
    made.announces(0.3)
    ((_, probe),) = made.takes(tcp(1, 80), 0.310)
    assert ports(made.replies(probe, SYN | ACK, 0.3105)) == [1]


def test_a_syn_to_the_announced_mac_address_of_a_guest_that_has_another_is_forwarded_and_followed() -> None:
    made, other = Synjitsu(), b"\x02\0\0\0\0\x42"
    made.addresses.claims.heard_from = lambda _: {other}
    made.announces(0.3, other)
    syn = tcp(1, 80)
    assert [(what, frame[:6]) for what, frame in made.takes(syn, 0.31)] == [("forward", other), ("probe", other)]
