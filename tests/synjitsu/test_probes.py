"""Probes: how many, how often, and from which ports."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.presence import RISE_LIMIT_S, UNPROVEN_S
from jitsu_synjitsu.rules.probes import FIRST_PROBE_PORT, MAX_PROBES, PROBE_PORTS, RETRY_S
from tests.support.frames import ACK, RST, SYN, V4, VM_MAC, tcp, udp
from tests.support.synjitsu import armed, made_addresses, wake_limit
from tests.synjitsu.test_handover import VM_IP, Synjitsu, ports, whats


@pytest.mark.parametrize("frame_s", [0.05, 0.15])
@pytest.mark.parametrize("flags", [SYN | ACK, RST | ACK])
def test_probes_do_not_pile_up_in_front_of_a_guest_that_takes_long_for_each_frame(frame_s: float, flags: int) -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    made.takes(udp(1, 9, b"x"), 0.1)
    queue = [frame for _, frame in made.announces(0.3)]
    now, answers_at, longest = 0.3, 0.3 + frame_s, 0
    while now < 0.3 + RISE_LIMIT_S - RETRY_S and made.told == []:
        now += RETRY_S / 2
        queue += [frame for what, frame in made.at(now) if what == "probe"]
        longest = max(longest, len(queue))
        if queue and now >= answers_at:
            made.replies(queue.pop(0), flags, now)
            answers_at = now + frame_s
    assert longest <= 10


def test_clients_that_the_guest_cannot_reach_do_not_hold_up_others_and_make_no_flood_of_probes() -> None:
    made = Synjitsu()
    made.addresses = made_addresses(Kept(1000, 1000), wake_limit())
    armed(made.addresses, "v", [VM_IP], VM_MAC, 60.0, 0.0)
    for n in range(200):
        made.takes(tcp(9, 80, addresses=(bytes([10, 0, 1, n]), V4[1])), 0.1)
    made.takes(tcp(1, 80), 0.1)
    probes, now = made.announces(0.3), 0.3
    assert len(probes) == MAX_PROBES
    while not (ours := [frame for _, frame in probes if frames.read(frame).sender == V4[0]]):
        now += RETRY_S
        probes = made.at(now)
        assert len(probes) <= MAX_PROBES
    assert now < 0.35
    assert ports(made.replies(ours[0], SYN | ACK, now)) == [1]
    late = made.at(0.3 + UNPROVEN_S)
    assert whats(late).count("replay") == 200, "the service listens, and the guest has had time for its routes"


def test_no_probe_comes_from_a_port_that_a_kept_connection_attempt_uses() -> None:
    made = Synjitsu()
    for port in (FIRST_PROBE_PORT, FIRST_PROBE_PORT + 2):
        made.takes(tcp(port, 80), 0.1)
    probed = ports(made.announces(0.3), "probe") + ports(made.at(0.3 + RETRY_S), "probe")
    assert probed == [FIRST_PROBE_PORT + 1, FIRST_PROBE_PORT + 3]


@pytest.mark.timeout(20)
def test_g9_kept_packets_that_use_all_ports_for_probes_do_not_hang_synjitsu() -> None:
    made = Synjitsu()
    made.addresses = made_addresses(Kept(PROBE_PORTS + 10, PROBE_PORTS + 10), wake_limit())
    armed(made.addresses, "v", [VM_IP], VM_MAC, 60.0, 0.0)
    for port in range(FIRST_PROBE_PORT, FIRST_PROBE_PORT + PROBE_PORTS):
        made.takes(tcp(port, 80), 0.1)
    assert "probe" not in whats(made.announces(0.3))
