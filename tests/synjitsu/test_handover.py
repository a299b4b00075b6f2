"""Arm, keep, hand over, let go: as frames, a clock and what is sent."""

from __future__ import annotations

import struct
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
from tests.support.frames import (
    ACK,
    CLIENT_MAC,
    RST,
    SYN,
    V4,
    V6,
    VM_MAC,
    answer_to,
    arp,
    packet,
    solicitation,
    tcp,
    udp,
)
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
        return self.takes(answer_to(probe, flags), now)


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


def test_only_the_answer_that_acknowledges_a_probe_counts_and_a_clients_own_connection_is_not_reset() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    ((_, probe),) = made.announces(0.3)
    for target_port, source_port, acknowledged in ((1, 80, 6), (FIRST_PROBE_PORT, 81, 6), (FIRST_PROBE_PORT, 80, 6)):
        answer = tcp(source_port, target_port, SYN | ACK, 99, acknowledged, V4[::-1], source=VM_MAC)
        assert made.takes(answer, 0.31) == [], "it is the answer to a SYN of the client's own"
    assert made.told == []
    assert whats(made.replies(probe, SYN | ACK, 0.32)) == ["probe", "replay"]


def test_no_probe_comes_from_a_port_that_a_kept_connection_attempt_uses() -> None:
    made = Synjitsu()
    for port in (FIRST_PROBE_PORT, FIRST_PROBE_PORT + 2):
        made.takes(tcp(port, 80), 0.1)
    probed = ports(made.announces(0.3), "probe") + ports(made.at(0.3 + RETRY_S), "probe")
    assert probed == [FIRST_PROBE_PORT + 1, FIRST_PROBE_PORT + 3]


@BOTH
def test_a_late_answer_to_an_earlier_probe_counts_too(addresses: tuple[bytes, bytes]) -> None:
    made = Synjitsu(addresses)
    made.takes(tcp(1, 80, addresses=addresses), 0.1)
    ((_, first),) = made.announces(0.3)
    assert whats(made.at(0.3 + RETRY_S)) == ["probe"]
    assert whats(made.replies(first, SYN | ACK, 0.315)) == ["probe", "replay"]


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
    sent = made.announces(0.3)
    assert whats(sent) == ["replay", "replay"]
    quoted = sent[0][1][14:100]
    message = b"\3\3\0\0\0\0\0\0" if v4 else b"\1\4\0\0\0\0\0\0"
    made.takes(packet(1 if v4 else 58, message + quoted, addresses[::-1], source=VM_MAC, to=CLIENT_MAC), 0.301)
    assert whats(made.at(0.301 + RETRY_S)) == ["replay"]
    made.at(0.3 + UDP_WATCH_S)
    assert made.told == ["v"]


@BOTH
def test_each_of_several_datagrams_with_the_same_ports_reaches_the_guest_in_order(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    texts = [b"A?", b"AAAA?", b"A?", b"TXT?", b"MX?"]
    for text in texts:
        made.takes(udp(9, 53, text, addresses), 0.1)
    sent = made.announces(0.3)
    assert [frame[frames.read(frame).payload_at + 8 :] for what, frame in sent if what == "replay"] == texts
    header = 14 + (20 if len(addresses[0]) == 4 else 40)
    refused = sent[1][1]
    quote = (b"\3\3\0\0\0\0\0\0" if header == 34 else b"\1\4\0\0\0\0\0\0") + refused[14 : header + 8]
    made.takes(packet(1 if header == 34 else 58, quote, addresses[::-1], source=VM_MAC, to=CLIENT_MAC), 0.301)
    again = [frame[header + 8 :] for what, frame in made.at(0.301 + RETRY_S) if what == "replay"]
    assert again == [b"AAAA?"], "only the datagram that the guest refused is sent again"


def in_fragments(datagram: bytes, parts: int = 2) -> list[bytes]:
    """Return the fragments of a datagram (RFC 791, 3.1; RFC 8200, 4.5), 8 bytes of it in each but the last."""
    v4 = datagram[12:14] == b"\x08\0"
    head, body = (datagram[14:34], datagram[34:]) if v4 else (datagram[14:54], datagram[54:])
    made = []
    for n in range(parts):
        part = body[8 * n : 8 * n + 8] if n < parts - 1 else body[8 * n :]
        more = n < parts - 1
        if v4:
            made.append(head[:2] + struct.pack("!HHH", 20 + len(part), 7, more << 13 | n) + head[8:] + part)
        else:
            extension = struct.pack("!BBHI", head[6], 0, 8 * n | more, 7)
            made.append(head[:4] + struct.pack("!HB", 8 + len(part), 44) + head[7:] + extension + part)
    return [datagram[:14] + each for each in made]


@BOTH
def test_the_fragments_of_a_datagram_are_kept_and_sent_unchanged_and_again_if_it_is_refused(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    fragments = in_fragments(udp(9, 7, b"a datagram in three pieces", addresses), 3)
    for fragment in fragments:
        made.takes(fragment, 0.1)
    sent = [frame for what, frame in made.announces(0.3) if what == "replay"]
    body = 34 if len(addresses[0]) == 4 else 54
    assert [frame[body:] for frame in sent] == [frame[body:] for frame in fragments], "checksums included"
    header = sent[0][34:42] if body == 34 else sent[0][62:70]
    inner = fragments[0][14:34] + header if body == 34 else fragments[0][14:20] + b"\x11" + fragments[0][21:54] + header
    quote = (b"\3\3\0\0\0\0\0\0" if body == 34 else b"\1\4\0\0\0\0\0\0") + inner
    made.takes(packet(1 if body == 34 else 58, quote, addresses[::-1], source=VM_MAC, to=CLIENT_MAC), 0.301)
    assert [frame for _, frame in made.at(0.301 + RETRY_S)] == sent


def test_a_guest_with_another_mac_gets_its_packets_there() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    other = b"\x02\0\0\0\0\x42"
    ((_, probe),) = made.announces(0.3, other)
    assert probe[:6] == other
    assert whats(made.takes(answer_to(probe, SYN | ACK, other), 0.31)) == ["probe", "replay"]
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
    assert kept.keep("v", 1, ITEM, replaces=True) is Outcome.KEPT
    assert kept.keep("v", 1, ITEM, replaces=True) is Outcome.REPLACED
    assert kept.keep("v", 2, ITEM, replaces=True) is Outcome.KEPT
    assert kept.keep("v", 3, ITEM, replaces=True) is Outcome.DISPLACED
    assert kept.keep("w", 1, ITEM, replaces=True) is Outcome.KEPT
    assert kept.keep("x", 1, ITEM, replaces=True) is Outcome.DISPLACED  # at the cost of the one that holds most
    assert [[flow for flow, _ in kept.take(vm)] for vm in "vwx"] == [[3], [1], [1]]
    assert kept.displaced == 2


def test_datagrams_of_one_flow_are_all_kept_in_order_and_too_many_displace_each_other() -> None:
    kept = Kept(5, 100)
    kept.keep("v", "syn", ITEM, replaces=True)
    for n in range(7):
        kept.keep("v", "flow", (b"%d" % n, ITEM[1]), replaces=False)
    assert [item[0] for _, item in kept.take("v")] == [ITEM[0], b"3", b"4", b"5", b"6"], "and no client's SYN"
    assert kept.displaced == 3


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans(), st.booleans()), max_size=60)


@given(STEPS)
def test_g4_bounds_hold_and_nothing_is_given_out_twice(steps: list[tuple[int, int, bool, bool]]) -> None:
    kept, given_out, number = Kept(4, 8), set[bytes](), 0
    for vm, flow, take, replaces in steps:
        if take:
            taken = [item[0] for _, item in kept.take(str(vm))]
            assert not given_out & set(taken)
            given_out |= set(taken)
        else:
            number += 1
            kept.keep(str(vm), (flow, replaces), (b"%d" % number, ITEM[1]), replaces=replaces)
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
