"""Arm, keep, hand over, let go: as frames, a clock and what is sent."""

from __future__ import annotations

import itertools
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.machine import Tick
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.events import Event, ReportHandover, SendFrame
from jitsu_synjitsu.rules.filter import SAMPLE
from jitsu_synjitsu.rules.floods import FLOOD_PACKETS
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover import TRANSITIONS
from jitsu_synjitsu.rules.handover_state import REFUSE_S, HandoverState
from jitsu_synjitsu.rules.kept import Item, Kept
from jitsu_synjitsu.rules.moved import MOVED_S
from jitsu_synjitsu.rules.presence import RISE_LIMIT_S, UNPROVEN_S
from jitsu_synjitsu.rules.probes import FIRST_PROBE_PORT, RETRY_S
from jitsu_synjitsu.rules.udp_replay import TRIAL_S, UDP_WATCH_S
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
    free_probe,
    packet,
    solicitation,
    tcp,
    udp,
)
from tests.support.synjitsu import armed, made_addresses, wake_limit

VM_IP = str(ip_address(V4[1]))
BOTH = pytest.mark.parametrize("addresses", [V4, V6])


class Synjitsu:
    """One bridge, with shorter words for what the tests say to it."""

    def __init__(self, addresses: tuple[bytes, bytes] = V4, limit: float = 60.0) -> None:
        self.addresses = made_addresses(Kept(10, 100), wake_limit())
        self.client, self.vm = addresses
        self.told: list[str] = []
        self.armed = self.sent(armed(self.addresses, "v", [str(ip_address(self.vm))], VM_MAC, limit, 0.0))

    def sent(self, actions: list[Any]) -> list[tuple[str, bytes]]:
        self.told += [action.vm for action in actions if isinstance(action, ReportHandover)]
        return [(action.what, action.frame) for action in actions if isinstance(action, SendFrame)]

    def takes(self, frame: bytes, now: float) -> list[tuple[str, bytes]]:
        return self.sent(self.addresses.frame(frame, frames.read(frame), now))

    def at(self, now: float) -> list[tuple[str, bytes]]:
        return self.sent(self.addresses.tick(now))

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
    assert set(TRANSITIONS) == set(itertools.product(HandoverState, [*Event.__args__, Tick]))


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
    assert made.addresses.addresses() == []
    assert made.takes(tcp(3, 80, addresses=addresses), 0.4) == []
    assert made.replies(probe, SYN | ACK, 0.5) == []
    assert made.addresses.deadline() is None


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
    for target_port, source_port, acknowledged in ((2, 80, 6), (FIRST_PROBE_PORT, 81, 6), (FIRST_PROBE_PORT, 80, 6)):
        answer = tcp(source_port, target_port, SYN | ACK, 99, acknowledged, V4[::-1], source=VM_MAC)
        assert made.takes(answer, 0.31) == [], "it is the answer to a SYN of the client's own"
    assert made.told == []
    assert whats(made.replies(probe, SYN | ACK, 0.32)) == ["probe", "replay"]


@BOTH
def test_a_late_answer_to_an_earlier_probe_counts_too(addresses: tuple[bytes, bytes]) -> None:
    made = Synjitsu(addresses)
    made.takes(tcp(1, 80, addresses=addresses), 0.1)
    ((_, first),) = made.announces(0.3)
    assert whats(made.at(0.3 + RETRY_S)) == ["probe"]
    assert whats(made.replies(first, SYN | ACK, 0.315)) == ["probe", "replay"]


@BOTH
def test_datagrams_and_echoes_wait_until_the_guest_is_seen_to_reach_their_client(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    other = (addresses[0][:-1] + b"\x66", addresses[1])
    echo = b"\x08\0\0\0\0\1\0\1ping", b"\x80\0\0\0\0\1\0\1ping"
    made.takes(udp(9, 7, b"q" * 1200, addresses), 0.1)
    made.takes(packet(1, echo[0]) if len(addresses[0]) == 4 else packet(58, echo[1], addresses), 0.1)
    made.takes(udp(9, 53, b"of another client", other), 0.1)
    probes = made.announces(0.3)
    assert [(what, frames.read(frame).target_port) for what, frame in probes] == [("probe", 7), ("probe", 53)]
    assert {frames.read(frame).sender for _, frame in probes} == {addresses[0], other[0]}
    sent = made.replies(probes[0][1], RST | ACK, 0.304)
    assert [frames.read(frame).kind for _, frame in sent] == [Kind.ECHO, Kind.UDP], "a refusal proves it as well"
    assert whats(made.at(0.31)) == ["probe"]
    assert made.told == []
    late = made.at(0.3 + UNPROVEN_S)
    assert [frames.read(frame).sender for what, frame in late if what == "replay"] == [other[0]]
    made.at(0.3 + UNPROVEN_S + UDP_WATCH_S)
    assert made.told == ["v"]
    assert made.addresses.counts.replayed == 3


def proven(made: Synjitsu, now: float) -> list[bytes]:
    """Let the guest show itself and answer the first probe; return the frames that are replayed then."""
    ((_, probe),) = made.announces(now)
    return [frame for what, frame in made.replies(probe, RST | ACK, now) if what == "replay"]


def refuses(made: Synjitsu, datagram: bytes, now: float) -> None:
    """Let the guest say of a datagram that nobody listens on its port."""
    v4 = len(made.vm) == 4
    quote = (b"\3\3\0\0\0\0\0\0" if v4 else b"\1\4\0\0\0\0\0\0") + datagram[14 : 42 if v4 else 62]
    made.takes(packet(1 if v4 else 58, quote, (made.vm, made.client), source=VM_MAC, to=CLIENT_MAC), now)


@BOTH
def test_a_datagram_that_the_guest_refuses_is_sent_again_ever_more_slowly_and_no_other_is(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    made.takes(udp(9, 7, b"hello", addresses), 0.1)
    (datagram,) = proven(made, 0.3)
    now, sent_at = 0.3, []
    for _ in range(8):
        refuses(made, datagram, now + 0.001)
        while not (again := made.at(now)):
            now += 0.005
        assert [frame for _, frame in again] == [datagram]
        sent_at.append(now - 0.3)
    pauses = [after - before for before, after in itertools.pairwise([0.0, *sent_at])]
    doubled = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0]
    assert pauses == pytest.approx(doubled, abs=0.007), "seven in 1.3 s: Linux reports six refusals, then one a second"
    made.at(now + UDP_WATCH_S)
    assert made.told == ["v"]


@BOTH
def test_each_of_several_datagrams_with_the_same_ports_reaches_the_guest_once_and_in_order(
    addresses: tuple[bytes, bytes],
) -> None:
    made = Synjitsu(addresses)
    texts = [b"A?", b"AAAA?", b"A?", b"TXT?", b"MX?"]
    for text in texts:
        made.takes(udp(9, 53, text, addresses), 0.1)
    (first,) = proven(made, 0.3)
    at = frames.read(first).payload_at + 8
    assert first[at:] == b"A?", "the others wait: of many refusals a guest reports few"
    refuses(made, first, 0.301)
    again = [frame for now in (0.305, 0.312) for _, frame in made.at(now)]
    assert again == [first]
    assert made.at(0.315) == []
    rest = [frame[at:] for what, frame in made.at(0.312 + TRIAL_S) if what == "replay"]
    assert rest == texts[1:]
    made.at(0.312 + TRIAL_S + UDP_WATCH_S)
    assert (made.told, made.addresses.counts.replayed) == (["v"], 6)


def test_an_answer_of_the_guest_lets_the_other_datagrams_follow_at_once() -> None:
    made = Synjitsu()
    for text in (b"A?", b"AAAA?"):
        made.takes(udp(9, 53, text), 0.1)
    proven(made, 0.3)
    made.takes(udp(53, 9, b"an answer", V4[::-1], source=VM_MAC, to=CLIENT_MAC), 0.302)
    assert whats(made.at(0.302)) == ["replay"]


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
    sent = proven(made, 0.3)
    body = 34 if len(addresses[0]) == 4 else 54
    assert [frame[body:] for frame in sent] == [frame[body:] for frame in fragments], "checksums included"
    header = sent[0][34:42] if body == 34 else sent[0][62:70]
    inner = fragments[0][14:34] + header if body == 34 else fragments[0][14:20] + b"\x11" + fragments[0][21:54] + header
    quote = (b"\3\3\0\0\0\0\0\0" if body == 34 else b"\1\4\0\0\0\0\0\0") + inner
    made.takes(packet(1 if body == 34 else 58, quote, addresses[::-1], source=VM_MAC, to=CLIENT_MAC), 0.301)
    assert [frame for _, frame in made.at(0.302 + RETRY_S)] == sent


def test_a_guest_with_another_mac_gets_its_packets_there() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    other = b"\x02\0\0\0\0\x42"
    made.addresses.claims.heard_from = lambda _: {other}
    ((_, probe),) = made.announces(0.3, other)
    assert probe[:6] == other
    assert whats(made.takes(answer_to(probe, SYN | ACK, other), 0.31)) == ["probe", "replay"]
    ((what, data),) = made.takes(tcp(1, 80, ACK), 0.4)  # the client does not believe the new address yet
    assert (what, data[:6]) == ("forward", other)
    made.at(0.4)
    assert set(made.addresses.macs()) == {VM_MAC}
    made.at(0.3 + MOVED_S)
    assert made.addresses.macs() == frozenset()
    assert made.takes(tcp(1, 80, ACK), 5.0) == []


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
    sent = made.at(5.0) if how == "late" else made.sent(made.addresses.disarm("v", "failed", 0.4))
    kinds = [frames.read(frame).kind for what, frame in sent if what == "rejection"]
    assert kinds == [Kind.TCP, Kind.UNREACHABLE]
    assert made.told == []
    assert made.sent(made.addresses.disarm("v", "failed", 5.0)) == []


def test_g4_a_client_that_comes_just_after_a_failed_boot_is_refused_too() -> None:
    made = Synjitsu()
    made.addresses.disarm("v", "failed", 1.0)
    assert made.addresses.addresses() == [VM_IP], "an answer with a TTL of 1 s may have named it just now"
    assert whats(made.takes(arp(1, CLIENT_MAC, *V4), 1.5)) == ["answer"]
    assert whats(made.takes(tcp(1, 80), 1.51)) == ["rejection"]
    assert whats(made.takes(udp(9, 7, b"x"), 1.52)) == ["rejection"]
    assert (made.at(1.0 + REFUSE_S), made.addresses.addresses()) == ([], [])


def test_g4_a_client_is_refused_after_a_failed_boot_in_which_the_guest_had_shown_itself() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    made.announces(0.3)
    made.addresses.disarm("v", "failed", 0.4)
    assert whats(made.takes(arp(1, CLIENT_MAC, *V4), 0.5)) == ["answer"]
    assert whats(made.takes(tcp(2, 80), 0.51)) == ["rejection"]


def test_a_vm_that_starts_again_soon_after_a_failed_boot_is_held_as_ever() -> None:
    made = Synjitsu()
    made.addresses.disarm("v", "failed", 1.0)
    armed(made.addresses, "v", [VM_IP], VM_MAC, 60.0, 2.0)
    assert made.takes(tcp(1, 80), 2.1) == [], "kept"
    made.at(1.0 + REFUSE_S)
    assert made.addresses.addresses() == [VM_IP]


def test_when_vmd_says_that_it_is_ready_the_guest_is_asked_for_at_once_and_held_until_it_answers() -> None:
    made = Synjitsu()
    made.takes(tcp(1, 80), 0.1)
    assert whats(made.sent(made.addresses.disarm("v", "ready", 0.2))) == ["question"]
    assert made.addresses.addresses() == [VM_IP]
    assert whats(made.takes(arp(2, VM_MAC, V4[1], V4[0], to=CLIENT_MAC), 0.201)) == ["probe"]


@BOTH
@pytest.mark.parametrize("early", ["an MLD report", "a probe whether its address is free", "another address"])
def test_the_address_is_held_until_the_guest_shows_itself_at_it(early: str, addresses: tuple[bytes, bytes]) -> None:
    made, v4 = Synjitsu(addresses), len(addresses[0]) == 4
    made.takes(tcp(1, 80, addresses=addresses), 0.1)
    link_local = bytes.fromhex("fe800000000000000000000000000001")
    report = packet(58, b"\x8f\0\0\0\0\0\0\1" + bytes(20), (link_local, frames.ALL_NODES), source=VM_MAC)
    stranger = b"\x0a\0\0\x07" if v4 else addresses[1][:-1] + b"\x07"
    frame = {
        "an MLD report": report,
        "a probe whether its address is free": free_probe(VM_MAC, addresses[1]),
        "another address": frames.announcements(VM_MAC, stranger)[0],
    }[early]
    assert made.takes(frame, 0.2) == []
    assert made.takes(tcp(2, 80, addresses=addresses), 0.201) == [], "kept, as the guest may not have its address yet"
    assert "question" in whats(made.at(0.202))
    assert (made.told, made.addresses.addresses()) == ([], [str(ip_address(addresses[1]))])
    ((_, probe),) = made.announces(0.3)
    assert ports(made.replies(probe, SYN | ACK, 0.301)) == [1, 2]
    assert made.told == ["v"]


def test_a_guest_that_never_has_its_configured_address_never_becomes_ready_and_what_it_announces_is_shown() -> None:
    made = Synjitsu(limit=60.0)
    made.takes(tcp(1, 80), 0.1)
    for n in range(30):
        made.takes(arp(1, VM_MAC, b"\x0a\0\0\7", b"\x0a\0\0\7"), 0.3 + n)
        made.at(0.3 + n)
    assert made.told == []
    assert made.addresses.held.boot_note("v") == f"the guest announces 10.0.0.7, configured is {VM_IP}"
    assert whats(made.at(60.0)) == ["rejection"]
    assert made.addresses.missing.shown() == {VM_IP: "10.0.0.7"}
    made.at(60.0 + REFUSE_S)
    assert made.addresses.addresses() == []


def test_a_vm_is_ready_without_an_address_that_never_appears_whose_clients_are_told_at_the_limit() -> None:
    v6 = (V6[0], V6[1])
    made = Synjitsu()
    made.addresses = made_addresses(Kept(10, 100), wake_limit())
    armed(made.addresses, "v", [VM_IP, str(ip_address(V6[1]))], VM_MAC, 60.0, 0.0)
    made.takes(tcp(1, 80, addresses=v6), 0.1)
    assert made.announces(0.3) == []
    assert made.told == ["v"], "it is ready at its IPv4 address"
    assert made.addresses.addresses() == [str(ip_address(V6[1]))]
    assert not made.addresses.macs(), "its traffic is not looked at as a whole"
    assert made.addresses.held.lingering_addresses() == {V6[1]}
    made.addresses.disarm("v", "ready", 0.4)
    made.takes(tcp(2, 80, addresses=v6), 1.0)
    made.takes(udp(9, 7, b"x", v6), 1.0)
    sent = made.at(60.0)
    assert [frames.read(frame).kind for what, frame in sent if what == "rejection"] == [
        Kind.TCP,
        Kind.TCP,
        Kind.UNREACHABLE,
    ]
    assert made.addresses.missing.shown() == {str(ip_address(V6[1])): ""}
    assert made.told == ["v"]


def test_a_vm_that_stops_before_its_last_address_appears_is_let_go() -> None:
    for watched in (False, True):
        made = Synjitsu()
        made.addresses = made_addresses(Kept(10, 100), wake_limit())
        armed(made.addresses, "v", [VM_IP, str(ip_address(V6[1]))], VM_MAC, 60.0, 0.0)
        made.announces(0.3)
        made.addresses.disarm("v", "ready", 0.4)
        if watched:
            made.addresses.watch("v", [VM_IP], VM_MAC, 9.0)
        else:
            made.addresses.unwatch("v", 9.0, runs=False)
        assert made.addresses.addresses() == ([VM_IP] if watched else [])


def test_the_next_boot_of_a_vm_begins_anew_although_an_address_of_the_last_one_is_held() -> None:
    made = Synjitsu()
    made.addresses = made_addresses(Kept(10, 100), wake_limit())
    both = [VM_IP, str(ip_address(V6[1]))]
    armed(made.addresses, "v", both, VM_MAC, 60.0, 0.0)
    made.announces(0.3)
    made.addresses.disarm("v", "ready", 0.4)
    assert whats(made.sent(armed(made.addresses, "v", both, VM_MAC, 90.0, 20.0)))[0] == "announcement"
    assert made.addresses.addresses() == sorted(both)
    made.announces(20.3)
    assert made.told == ["v", "v"]


@BOTH
def test_what_the_guest_has_answered_itself_is_not_replayed(addresses: tuple[bytes, bytes]) -> None:
    made, back = Synjitsu(addresses), addresses[::-1]
    for port in (1, 2, 3):
        made.takes(tcp(port, 80, addresses=addresses), 0.1)
    made.takes(udp(9, 7, b"x", addresses), 0.1)
    (*_, (_, probe)) = made.takes(tcp(80, 1, SYN | ACK, 9, 6, back, source=VM_MAC, to=CLIENT_MAC), 0.3)
    made.takes(tcp(80, 2, RST | ACK, 0, 6, back, source=VM_MAC, to=CLIENT_MAC), 0.301)
    made.takes(udp(7, 9, b"an answer", back, source=VM_MAC, to=CLIENT_MAC), 0.302)
    probes = [probe] if frames.read(probe).target_port == 80 else []
    probes += [frame for _, frame in made.at(0.311) if frames.read(frame).target_port == 80]
    assert ports(made.replies(probes[0], SYN | ACK, 0.312)) == [3]


def test_a_datagram_that_the_bridge_brought_just_before_the_guest_showed_itself_is_left_to_it() -> None:
    made = Synjitsu()
    made.takes(udp(9, 7, b"before its first frame"), 0.1)
    made.takes(arp(1, VM_MAC, bytes(4), V4[1]), 0.2)
    made.takes(udp(9, 7, b"long before"), 0.21)
    made.takes(udp(9, 7, b"at the same time"), 0.29)
    made.takes(tcp(1, 80), 0.29)
    sent = made.announces(0.3)
    for _, probe in list(sent):
        sent += made.replies(probe, SYN | ACK, 0.301)
    sent += made.at(0.301 + TRIAL_S)
    replayed = [frames.read(frame).kind for what, frame in sent if what == "replay"]
    texts = [frame[42:] for what, frame in sent if what == "replay" and frames.read(frame).kind is Kind.UDP]
    assert texts == [b"before its first frame", b"long before"]
    assert replayed.count(Kind.TCP) == 1, "a SYN that came twice does no harm"


@BOTH
def test_nobody_is_told_while_it_boots_that_its_address_is_taken(addresses: tuple[bytes, bytes]) -> None:
    made = Synjitsu(addresses)
    assert made.takes(free_probe(b"\x02\0\0\0\0\x42", addresses[1]), 0.1) == []
    assert made.takes(free_probe(VM_MAC, addresses[1]), 0.1) == []
    assert made.addresses.addresses() == [str(ip_address(addresses[1]))]


def test_arming_again_only_moves_the_limit_and_another_vm_takes_an_address_over() -> None:
    made = Synjitsu(limit=5.0)
    made.takes(tcp(1, 80), 0.1)
    assert armed(made.addresses, "v", [VM_IP], VM_MAC, 9.0, 1.0) == []
    assert "rejection" not in whats(made.at(6.0))
    assert armed(made.addresses, "w", [VM_IP], b"\x02\0\0\0\0\x03", 9.0, 7.0)
    assert made.addresses.macs() == {b"\x02\0\0\0\0\x03"}
    assert len(made.addresses.held.kept) == 0


ITEM = Item(tcp(), frames.read(tcp()))


def test_what_is_kept_is_bounded_per_vm_and_in_all_and_the_oldest_goes_first() -> None:
    kept = Kept(2, 3)
    for vm, flow, displaced in (
        ("v", 1, 0),
        ("v", 1, 0),  # the same attempt again
        ("v", 2, 0),
        ("v", 3, 1),
        ("w", 1, 1),
        ("x", 1, 2),  # at the cost of the one that holds most
    ):
        kept.keep(vm, flow, ITEM, replaces=True)
        assert kept.displaced == displaced
    assert [[flow for flow, _ in kept.take(vm)] for vm in "vwx"] == [[3], [1], [1]]
    assert kept.displaced == 2


def test_a_vm_does_not_pay_for_the_flood_of_another_with_its_only_frame() -> None:
    kept = Kept(10, 12)
    kept.keep("small", "first", ITEM, replaces=True)
    for n in range(20):
        kept.keep("flooded", n, ITEM, replaces=True)
        kept.keep("another", n % 2, ITEM, replaces=True)
    assert len(kept) == 12
    before = kept.displaced
    kept.keep("small", "second", ITEM, replaces=True)
    assert kept.displaced == before + 1
    assert [len(kept.take(vm)) for vm in ("small", "flooded", "another")] == [2, 8, 2]
    assert len(kept) == 0


def test_datagrams_of_one_flow_are_all_kept_in_order_and_too_many_displace_each_other() -> None:
    kept = Kept(5, 100)
    kept.keep("v", "syn", ITEM, replaces=True)
    for n in range(7):
        kept.keep("v", "flow", Item(b"%d" % n, ITEM.seen), replaces=False)
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
            before = {other: len(list(kept.of(other))) for other in map(str, range(4))}
            kept.keep(str(vm), (flow, replaces), Item(b"%d" % number, ITEM.seen), replaces=replaces)
            after = {other: len(list(kept.of(other))) for other in before}
            losers = [other for other in before if after[other] < before[other]]
            assert all(before[other] == max(before.values()) for other in losers), "who has most pays"
        assert len(kept) == sum(len(list(kept.of(other))) for other in map(str, range(4))) <= 8
    assert all(len(kept.take(str(vm))) <= 4 for vm in range(4))
    assert len(kept) == 0


def test_a_flood_is_noticed_until_it_is_over() -> None:
    made = Synjitsu()
    for n in range(FLOOD_PACKETS + 1):
        made.takes(tcp(n + 1), 0.1)
    assert made.addresses.flooded() == {VM_MAC}
    made.addresses.begin_count()
    for n in range(FLOOD_PACKETS // SAMPLE + 1):
        made.takes(tcp(n + 1), 0.3)
    made.addresses.begin_count()
    assert made.addresses.flooded() == {VM_MAC}, "what is seen is a sample"
    made.addresses.begin_count()
    assert made.addresses.flooded() == frozenset()
    assert made.addresses.floods.total == 1
