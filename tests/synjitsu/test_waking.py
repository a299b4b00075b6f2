"""VMs that are off and that traffic wakes: whose packets count, and what becomes of them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.addresses import DORMANT_S
from jitsu_synjitsu.rules.events import OpenPort, SendFrame, ShutPort, Wake
from jitsu_synjitsu.rules.handover_state import SETTLE_S
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.presence import UNPROVEN_S
from tests.support.frames import (
    CLIENT_MAC,
    RST,
    SYN,
    V4,
    V6,
    VM_MAC,
    answer_to,
    arp,
    free_probe,
    packet,
    solicitation,
    tcp,
    udp,
)
from tests.support.synjitsu import armed, made_addresses, wake_limit

BOTH = pytest.mark.parametrize("addresses", [V4, V6])
ACK = 16


class Sleeping:
    """A bridge on which one VM is off."""

    def __init__(self, addresses: tuple[bytes, bytes] = V4, **limits: Any) -> None:
        self.addresses = made_addresses(Kept(10, 100), wake_limit(*limits.pop("allowed", ()), **limits))
        self.client, self.vm = addresses
        self.watch(0.0)

    def watch(self, now: float) -> None:
        self.addresses.watch("v", [str(ip_address(self.vm))], VM_MAC, now)

    def arms(self, now: float) -> list[str]:
        return self.whats(armed(self.addresses, "v", [str(ip_address(self.vm))], VM_MAC, now + 60, now))

    def takes(self, frame: bytes, now: float) -> list[str]:
        return self.whats(self.addresses.frame(frame, frames.read(frame), now))

    @staticmethod
    def whats(actions: list[Any]) -> list[str]:
        """Return what is sent and what else is done, but for the bridge's port (tests/synjitsu/test_ports.py)."""
        shown = [action for action in actions if not isinstance(action, (OpenPort, ShutPort))]
        return [action.what if isinstance(action, SendFrame) else type(action).__name__ for action in shown]


@BOTH
def test_a_vm_that_is_off_is_answered_for_but_not_announced(addresses: tuple[bytes, bytes]) -> None:
    made = Sleeping(addresses)
    asks = arp(1, CLIENT_MAC, *addresses) if len(addresses[0]) == 4 else solicitation(CLIENT_MAC, *addresses)
    assert made.takes(asks, 1.0) == ["answer"]
    assert made.addresses.deadline() is None
    assert made.addresses.macs() == {VM_MAC}


@BOTH
def test_a_syn_wakes_it_once_and_is_replayed_when_the_guest_is_there(addresses: tuple[bytes, bytes]) -> None:
    made = Sleeping(addresses)
    assert made.takes(tcp(1, 80, addresses=addresses), 1.0) == ["Wake"]
    assert made.takes(tcp(2, 80, addresses=addresses), 1.1) == [], "it is woken already; the packet is kept"
    assert set(made.arms(1.2)) == {"announcement"}
    there = frames.announcements(VM_MAC, made.vm)[0]
    probe = made.addresses.frame(there, frames.read(there), 1.5)[-1]
    assert isinstance(probe, SendFrame)
    assert made.takes(answer_to(probe.frame, SYN | ACK), 1.6) == ["probe", "replay", "replay", "ReportHandover"]
    assert made.addresses.addresses() == [], "it runs: nobody answers for it until vmd says that it is off"


@pytest.mark.parametrize(
    "frame",
    [
        tcp(flags=ACK),
        tcp(flags=RST),
        packet(1, b"\x08\0\0\0\0\1\0\1ping"),
        udp(1, 2, b"x", to=b"\xff" * 6),
        arp(2, CLIENT_MAC, V4[0], V4[1]),
    ],
    ids=["a segment", "a reset", "a ping", "a broadcast", "an ARP reply"],
)
def test_what_is_no_first_packet_wakes_nobody(frame: bytes) -> None:
    assert Sleeping().takes(frame, 1.0) == []


def test_a_datagram_wakes_it() -> None:
    assert Sleeping().takes(udp(1, 2, b"x"), 1.0) == ["Wake"]


def test_a_scan_wakes_no_more_than_one_address_may_and_others_still_can() -> None:
    addresses = made_addresses(Kept(10, 1000), wake_limit(burst=5.0, of_all=100.0))
    for n in range(1, 250):
        addresses.watch(f"v{n}", [f"10.0.0.{n}"], bytes([2, 0, 0, 0, 1, n]), 0.0)

    def scan(sender: bytes, numbers: range) -> list[Any]:
        woken: list[Any] = []
        for n in numbers:
            frame = tcp(addresses=(sender, bytes([10, 0, 0, n])), to=bytes([2, 0, 0, 0, 1, n]))
            woken += addresses.frame(frame, frames.read(frame), 1.0)
        return woken

    assert len(scan(b"\x0a\0\1\1", range(1, 200))) == 5
    assert addresses.counts.unwoken == 194
    assert [type(each) for each in scan(b"\x0a\0\1\2", range(240, 241))] == [Wake]


def test_everybody_together_may_not_wake_more_than_so_many() -> None:
    made = Sleeping(burst=5.0, of_all=1.0)
    made.addresses.watch("w", ["10.0.0.77"], b"\x02\0\0\0\0\x77", 0.0)
    assert made.takes(tcp(), 1.0) == ["Wake"]
    assert made.takes(tcp(addresses=(b"\x0a\0\0\x33", b"\x0a\0\0\x4d"), to=b"\x02\0\0\0\0\x77"), 1.0) == []


def test_g10_who_may_not_start_vms_wakes_none() -> None:
    assert Sleeping(allowed=["192.0.2.0/24"]).takes(tcp(), 1.0) == []
    assert Sleeping(allowed=["10.0.0.0/24"]).takes(tcp(), 1.0) == ["Wake"]


def test_g4_clients_are_told_if_it_is_not_started_and_the_next_may_try_again() -> None:
    made = Sleeping()
    made.takes(tcp(1), 1.0)
    made.takes(udp(1, 2, b"x"), 1.0)
    assert made.whats(made.addresses.not_woken("v", 1.1)) == ["rejection"] * 2
    assert len(made.addresses.held.kept) == 0
    assert made.takes(tcp(1), 1.2) == ["Wake"]


def test_if_the_boot_fails_it_is_watched_again_as_soon_as_vmd_says_so() -> None:
    for first in ("vmd's state", "the disarm"):
        made = Sleeping()
        made.takes(tcp(1), 1.0)
        made.arms(1.1)
        if first == "vmd's state":
            made.watch(2.0)
        assert made.whats(made.addresses.disarm("v", "failed", 2.0)) == ["rejection"]
        if first == "the disarm":
            assert made.addresses.addresses(), "its clients are refused for a while"
            made.watch(2.0)
        assert made.takes(tcp(1), 3.0) == ["Wake"]


def test_a_guest_that_somebody_else_started_is_let_alone_and_gets_what_was_kept() -> None:
    made = Sleeping()
    late = arp(1, VM_MAC, V4[1], V4[1])
    assert made.takes(late, SETTLE_S / 2) == [], "it may be older than what vmd says"
    assert made.addresses.addresses()
    assert made.takes(late, 1.0) == []
    assert made.addresses.addresses() == []
    made.addresses.tick(1.0 + DORMANT_S)
    assert made.addresses.addresses(), "vmd still says that it is off"
    made.takes(tcp(1), 60.0)
    assert made.takes(late, 60.1) == ["probe"]


def test_a_vm_that_is_woken_but_was_not_armed_gets_its_packets_when_it_is_ready() -> None:
    made = Sleeping()
    made.takes(udp(1, 2, b"x"), 1.0)
    assert made.whats(made.addresses.unwatch("v", 1.5, runs=True)) == ["probe"]
    assert "replay" in made.whats(made.addresses.tick(1.5 + UNPROVEN_S))


def test_one_that_traffic_may_not_wake_any_more_is_let_go() -> None:
    made = Sleeping()
    made.takes(tcp(1), 1.0)
    assert made.whats(made.addresses.unwatch("v", 1.5, runs=False)) == ["rejection"]
    assert made.addresses.addresses() == []


def test_it_is_watched_under_the_mac_that_its_clients_know() -> None:
    made, real = Sleeping(), b"\x02\0\0\0\0\x99"
    made.takes(tcp(1), 1.0)
    made.addresses.claims.heard_from = lambda _: {real}
    made.arms(1.1)
    made.takes(arp(1, real, V4[1], V4[1]), 1.5)
    made.addresses.disarm("v", "ready", 1.6)
    made.addresses.tick(9.0)
    made.watch(20.0)
    assert made.addresses.macs() == {real}
    assert made.takes(tcp(1, to=real), 30.0) == ["Wake"]


def test_another_machine_with_its_address_is_told_of_and_is_not_taken_for_the_guest() -> None:
    made, other = Sleeping(), b"\x02\0\0\0\0\x99"
    assert made.takes(arp(1, other, V4[1], V4[1]), 5.0) == ["announcement"] * 2
    assert made.addresses.claims.rivals_shown() == {"10.0.0.1": other}
    assert made.takes(tcp(1), 6.0) == ["Wake"]
    made.arms(6.1)
    assert made.addresses.claims.rivals_shown() == {"10.0.0.1": other}
    made.watch(9.0)
    made.addresses.disarm("v", "failed", 9.1)
    assert made.addresses.claims.rivals_shown() == {}, "when it is held again it may be over"


@BOTH
def test_a_machine_that_looks_whether_the_address_of_a_vm_that_is_off_is_free_is_told_no_and_reported(
    addresses: tuple[bytes, bytes],
) -> None:
    made, other = Sleeping(addresses), b"\x02\0\0\0\0\x99"
    assert made.takes(free_probe(other, addresses[1]), 5.0) == ["answer"]
    assert made.addresses.claims.rivals_shown() == {str(ip_address(addresses[1])): other}
    assert made.takes(free_probe(VM_MAC, addresses[1]), 6.0) == [], "the VM itself may have it"
    assert made.addresses.claims.rivals_shown() == {str(ip_address(addresses[1])): other}
    assert made.addresses.addresses(), "it shows nothing yet, so what comes is kept still"


@BOTH
def test_the_address_of_a_vm_that_is_off_is_defended_once_in_ten_seconds(addresses: tuple[bytes, bytes]) -> None:
    made, other = Sleeping(addresses), b"\x02\0\0\0\0\x99"
    claim = frames.announcements(other, addresses[1])[0]
    defended = [now for now in (5.0, 6.0, 14.9, 15.0, 20.0) if "announcement" in made.takes(claim, now)]
    assert defended == [5.0, 15.0], "RFC 5227, 2.4, (b) and DEFEND_INTERVAL"
