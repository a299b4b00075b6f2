"""When Synjitsu asks for a guest that does not announce itself, and whose connection attempts it does not keep."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.asking import ASK_SILENT_S, EAGER_S
from jitsu_synjitsu.rules.kept import Kept
from tests.support.frames import CLIENT_MAC, V4, V6, VM_MAC, arp, tcp
from tests.support.synjitsu import armed, made_addresses, wake_limit
from tests.synjitsu.test_handover import VM_IP, Synjitsu, whats


def test_a_guest_that_never_announces_is_asked_for_by_who_waits_or_later_by_nobody() -> None:
    made = Synjitsu()
    made.at(EAGER_S)
    made.takes(tcp(1, 80), 0.5)
    times = (0.504, 0.506, 0.510, 0.512, 0.521, 0.523, 0.542, 0.544)
    asked = [(now, frame) for now in times for what, frame in made.at(now) if what == "question"]
    assert [now for now, _ in asked] == [0.506, 0.512, 0.523, 0.544], "after 5, 5, 10 and 20 ms"
    assert {(frames.read(each).source, frames.read(each).sender) for _, each in asked} == {(CLIENT_MAC, V4[0])}
    assert whats(made.takes(arp(2, VM_MAC, V4[1], V4[0], to=CLIENT_MAC), 1.05)) == ["probe"]
    for addresses in (V4, V6):
        silent = Synjitsu(addresses)
        silent.at(EAGER_S)
        assert "question" not in whats(silent.at(EAGER_S + ASK_SILENT_S - 0.1))
        (asked_for,) = [frame for what, frame in silent.at(EAGER_S + ASK_SILENT_S) if what == "question"]
        assert any(frames.read(asked_for).sender), "it must not look like a probe whether the address is free"
        assert frames.is_link_local(frames.read(asked_for).sender)
        assert frames.read(asked_for).target == addresses[1]


def test_a_guest_that_is_up_at_once_and_loses_its_announcement_is_asked_for_though_nobody_waits_yet() -> None:
    made = Synjitsu()
    found = [now / 1000 for now in range(1500) if "question" in whats(made.at(now / 1000))]
    assert found == [0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 1.1]


@pytest.mark.parametrize(
    ("port", "is_own", "count"), [(80, True, 0), (81, True, 1), (80, False, 1)], ids=["probe", "other port", "client"]
)
def test_attempts_of_vmd_itself_to_connect_are_not_kept(port: int, is_own: bool, count: int) -> None:
    addresses = made_addresses(Kept(10, 100), wake_limit())
    armed(addresses, "v", [VM_IP], VM_MAC, 60.0, 0.0, probed_port=80)
    syn = tcp(1, port)
    addresses.frame(syn, frames.read(syn), 0.1, is_own=is_own)
    assert len(addresses.held.kept) == count
