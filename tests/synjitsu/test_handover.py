"""Arm, keep, hand over, let go: as frames, a clock and what is sent."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.arming import FLOOD_PACKETS, MOVED_S, Arming
from jitsu_synjitsu.rules.filter import SAMPLE
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover import (
    FIRST_PROBE_PORT,
    RETRY_S,
    RISE_LIMIT_S,
    SILENT_S,
    TRANSITIONS,
    UDP_WATCH_S,
    Event,
    HandedOver,
    HandoverState,
    Send,
)
from jitsu_synjitsu.rules.kept import Kept, Outcome
from tests.support.frames import ACK, CLIENT_MAC, RST, SYN, V4, V6, VM_MAC, arp, packet, solicitation, tcp, udp
from tests.support.synjitsu import wake_limit

VM_IP = str(ip_address(V4[1]))
BOTH = pytest.mark.parametrize("addresses", [V4, V6])


class Synjitsu:
    """One bridge, with shorter words for what the tests say to it."""

    def __init__(self, addresses: tuple[bytes, bytes] = V4, limit: float = 60.0) -> None:
        self.arming = Arming(Kept(10, 100), wake_limit())
        self.client, self.vm = addresses
        self.told: list[str] = []
        self.armed = self.sent(self.arming.arm("v", [str(ip_address(self.vm))], VM_MAC, limit, 0.0))

    def sent(self, actions: list[Any]) -> list[tuple[str, bytes]]:
        self.told += [action.vm for action in actions if isinstance(action, HandedOver)]
        return [(action.what, action.frame) for action in actions if isinstance(action, Send)]

    def takes(self, frame: bytes, now: float) -> list[tuple[str, bytes]]:
        return self.sent(self.arming.frame(frame, frames.read(frame), now))

    def at(self, now: float) -> list[tuple[str, bytes]]:
        return self.sent(self.arming.passed(now))

    def announces(self, now: float, mac: bytes = VM_MAC) -> list[tuple[str, bytes]]:
        """Let the guest's first frame be seen."""
        if len(self.vm) == 4:
            return self.takes(arp(1, mac, self.vm, self.vm), now)
        return self.takes(frames.announcements(mac, self.vm)[0], now)

    def replies(self, probe: bytes, flags: int, now: float) -> list[tuple[str, bytes]]:
        """Let the guest answer a probe."""
        seen = frames.read(probe)
        segment = tcp(seen.target_port, seen.source_port, flags, 99, 1, (self.vm, seen.sender), source=VM_MAC)
        return self.takes(segment, now)


def whats(sent: list[tuple[str, bytes]]) -> list[str]:
    return [what for what, _ in sent]


def ports(sent: list[tuple[str, bytes]], what: str = "replay") -> list[int]:
    return [frames.read(frame).source_port for each, frame in sent if each == what]


def test_the_table_knows_every_event_in_every_state() -> None:
    assert set(TRANSITIONS) == set(HandoverState)
    assert all(set(row) == set(Event.__args__) for row in TRANSITIONS.values())


@BOTH
def test_an_armed_address_is_announced_and_answered_for_and_others_are_not(addresses: tuple[bytes, bytes]) -> None:
    made = Synjitsu(addresses)
    assert set(whats(made.armed)) == {"announcement"}
    ask = arp(1, CLIENT_MAC, *addresses) if len(addresses[0]) == 4 else solicitation(CLIENT_MAC, *addresses)
    ((what, answer),) = made.takes(ask, 0.01)
    assert (what, frames.read(answer).source) == ("answer", VM_MAC)
    assert made.takes(arp(1, CLIENT_MAC, V4[0], b"\x0a\0\0\x55"), 0.02) == []
    again = [now for now in (0.05, 0.11, 0.2, 0.31, 0.5, 0.71) if "announcement" in whats(made.at(now))]
    assert again == [0.11, 0.31, 0.71], "each pause is twice the one before"


@BOTH
def test_g4_first_packets_are_replayed_once_oldest_first_and_then_it_is_silent(addresses: tuple[bytes, bytes]) -> None:
    made = Synjitsu(addresses)
    for port, sequence in ((1, 5), (2, 5), (1, 6)):  # the first client gives up, and tries again from the same port
        assert made.takes(tcp(port, 80, sequence=sequence, addresses=addresses), 0.1) == []
    ((what, probe),) = made.announces(0.3)
    assert (what, frames.read(probe).source_port >= FIRST_PROBE_PORT) == ("probe", True)
    sent = made.replies(probe, SYN | ACK, 0.301)
    assert whats(sent) == ["probe", "replay", "replay"]
    assert frames.read(sent[0][1]).flags == RST
    assert ports(sent) == [1, 2]
    assert int.from_bytes(sent[1][1][-16:-12], "big") == 6
    assert made.told == ["v"]
    assert made.arming.addresses() == []
    assert made.takes(tcp(3, 80, addresses=addresses), 0.4) == []
    assert made.replies(probe, SYN | ACK, 0.5) == []
    assert made.arming.next_deadline() is None


def test_a_guest_that_refuses_before_it_listens_is_probed_and_the_client_hears_nothing_of_it() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    made.takes(tcp(2, 81), 0.1)
    now, refused = 0.3, 0
    probes = made.announces(now)
    assert ports(probes, "probe") == [FIRST_PROBE_PORT, FIRST_PROBE_PORT + 1]
    while now < 0.5:
        for _, probe in probes:
            assert made.replies(probe, RST | ACK, now) == []
            refused += 1
        now += RETRY_S
        probes = made.at(now)
        assert set(whats(probes)) == {"probe"}
    assert refused > 20
    assert ports(made.replies(probes[0][1], SYN | ACK, now)) == [1]
    assert made.told == []
    assert ports(made.replies(probes[1][1], SYN | ACK, now)) == [2]
    assert made.told == ["v"]


def test_a_guest_that_never_listens_gets_what_there_is_in_the_end() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    made.announces(0.3)
    made.at(0.3 + RISE_LIMIT_S - 0.01)
    assert made.told == []
    assert ports(made.at(0.3 + RISE_LIMIT_S)) == [1]
    assert made.told == ["v"]


def test_a_segment_that_is_no_answer_to_a_probe_is_none() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    made.announces(0.3)
    for target_port, source_port in ((1, 80), (FIRST_PROBE_PORT, 81)):
        assert made.takes(tcp(source_port, target_port, SYN | ACK, addresses=V4[::-1], source=VM_MAC), 0.31) == []
    assert made.told == []


@BOTH
def test_datagrams_and_echoes_are_replayed_at_once_and_one_that_is_refused_again(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    v4 = len(addresses[0]) == 4
    datagram = udp(9, 7, b"q" * 1200, addresses)
    echo = packet(1, b"\x08\0\0\0\0\1\0\1ping") if v4 else packet(58, b"\x80\0\0\0\0\1\0\1ping", addresses)
    made.takes(datagram, 0.1)
    made.takes(echo, 0.1)
    assert whats(made.announces(0.3)) == ["replay", "replay"]
    quoted = datagram[14:100]
    message = b"\3\3\0\0\0\0\0\0" if v4 else b"\1\4\0\0\0\0\0\0"
    made.takes(packet(1 if v4 else 58, message + quoted, addresses[::-1], source=VM_MAC, to=CLIENT_MAC), 0.301)
    assert whats(made.at(0.301 + RETRY_S)) == ["replay"]
    made.at(0.3 + UDP_WATCH_S)
    assert made.told == ["v"]


def test_a_guest_with_another_mac_gets_its_packets_there() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    other = b"\x02\0\0\0\0\x42"
    ((_, probe),) = made.announces(0.3, other)
    assert probe[:6] == other
    seen = frames.read(probe)
    reply = tcp(seen.target_port, seen.source_port, SYN | ACK, 99, 1, V4[::-1], source=other)
    assert whats(made.takes(reply, 0.31)) == ["probe", "replay"]
    ((what, data),) = made.takes(tcp(1, 80, ACK), 0.4)  # the client does not believe the new address yet
    assert (what, data[:6]) == ("forward", other)
    assert set(made.arming.macs()) == {VM_MAC}
    made.at(0.3 + MOVED_S)
    assert made.arming.macs() == frozenset()
    assert made.takes(tcp(1, 80, ACK), 5.0) == []


def test_a_guest_that_never_announces_is_asked_for_by_who_waits_or_later_by_nobody() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 1.0)
    asked = [frame for now in (1.01, 1.03) for what, frame in made.at(now) if what == "question"]
    assert [(frames.read(each).source, frames.read(each).sender) for each in asked] == [(CLIENT_MAC, V4[0])]
    assert whats(made.takes(arp(2, VM_MAC, V4[1], V4[0], to=CLIENT_MAC), 1.05)) == ["probe"]
    for addresses in (V4, V6):
        silent = Synjitsu(addresses)
        assert "question" not in whats(silent.at(SILENT_S - 0.1))
        (asked_for,) = [frame for what, frame in silent.at(SILENT_S + 0.01) if what == "question"]
        assert not any(frames.read(asked_for).sender)


def test_vlan_tags_are_kept() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80, vlan=5), 0.1)
    ((_, probe),) = made.announces(0.3)
    assert frames.read(probe).vlan == b"\x81\0\0\x05"
    sent = made.replies(probe, SYN | ACK, 0.31)
    assert {frames.read(frame).vlan for _, frame in sent} == {b"\x81\0\0\x05"}
    ((_, answer),) = Synjitsu().takes(arp(1, CLIENT_MAC, *V4, vlan=5), 0.1)
    assert frames.read(answer).vlan == b"\x81\0\0\x05"


@pytest.mark.parametrize("how", ["told", "late", "while it rises"])
def test_g4_if_the_boot_fails_the_clients_are_told(how: str) -> None:
    made = Synjitsu(limit=5.0)
    made.takes(tcp(1, 80), 0.1)
    made.takes(udp(9, 7, b"x"), 0.1)
    if how == "while it rises":
        made.announces(0.3)
    sent = made.at(5.0) if how == "late" else made.sent(made.arming.disarm("v", "failed", 0.4))
    kinds = [frames.read(frame).kind for what, frame in sent if what == "rejection"]
    assert kinds == ([Kind.TCP] if how == "while it rises" else [Kind.TCP, Kind.UNREACHABLE])
    assert made.told == []
    assert made.arming.addresses() == []
    assert made.sent(made.arming.disarm("v", "failed", 0.5)) == []


def test_what_vmd_says_is_as_good_as_a_frame_of_the_guest() -> None:
    made = Synjitsu()
    assert made.sent(made.arming.disarm("v", "ready", 0.2)) == []
    assert made.told == ["v"]
    assert made.announces(0.3) == []


def test_arming_again_only_moves_the_limit_and_another_vm_takes_an_address_over() -> None:
    made = Synjitsu(limit=5.0)
    made.takes(tcp(1, 80), 0.1)
    assert made.arming.arm("v", [VM_IP], VM_MAC, 9.0, 1.0) == []
    assert "rejection" not in whats(made.at(6.0))
    assert made.arming.arm("w", [VM_IP], b"\x02\0\0\0\0\x03", 9.0, 7.0)
    assert made.arming.macs() == {b"\x02\0\0\0\0\x03"}
    assert len(made.arming.kept) == 0


ITEM = tcp(), frames.read(tcp())


def test_what_is_kept_is_bounded_per_vm_and_in_all_and_the_oldest_goes_first() -> None:
    kept = Kept(2, 3)
    assert kept.keep("v", 1, ITEM) is Outcome.KEPT
    assert kept.keep("v", 1, ITEM) is Outcome.REPLACED
    assert kept.keep("v", 2, ITEM) is Outcome.KEPT
    assert kept.keep("v", 3, ITEM) is Outcome.DISPLACED
    assert kept.keep("w", 1, ITEM) is Outcome.KEPT
    assert kept.keep("x", 1, ITEM) is Outcome.DISPLACED  # at the cost of the one that holds most
    assert [[flow for flow, _ in kept.take(vm)] for vm in "vwx"] == [[3], [1], [1]]
    assert kept.displaced == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=60))
def test_g4_bounds_hold_and_nothing_is_given_out_twice(steps: list[tuple[int, int, bool]]) -> None:
    kept, given_out, number = Kept(4, 8), set[bytes](), 0
    for vm, flow, take in steps:
        if take:
            taken = [item[0] for _, item in kept.take(str(vm))]
            assert not given_out & set(taken)
            given_out |= set(taken)
        else:
            number += 1
            kept.keep(str(vm), flow, (b"%d" % number, ITEM[1]))
        assert len(kept) <= 8
    assert all(len(kept.take(str(vm))) <= 4 for vm in range(4))
    assert len(kept) == 0


def test_a_flood_is_noticed_until_it_is_over() -> None:
    made = Synjitsu()
    for n in range(FLOOD_PACKETS + 1):
        made.takes(tcp(n + 1), 0.1)
    assert made.arming.flooded() == {VM_MAC}
    made.arming.count_anew()
    for n in range(FLOOD_PACKETS // SAMPLE + 1):
        made.takes(tcp(n + 1), 0.3)
    made.arming.count_anew()
    assert made.arming.flooded() == {VM_MAC}, "what is seen is a sample"
    made.arming.count_anew()
    assert made.arming.flooded() == frozenset()
    assert made.arming.floods == 1
