"""Frames are read whatever they are, and those that are sent are right."""

from __future__ import annotations

import itertools
import os
import random
import struct
from functools import partial
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.filter import ALL_BYTES, HEAD_BYTES, MAX_INSTRUCTIONS, Interest, program
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.kept import Kept
from tests.support.bpf import taken_by
from tests.support.examples import examples
from tests.support.frames import (
    ACK,
    CLIENT_MAC,
    RST,
    SYN,
    V4,
    V6,
    VM_MAC,
    arp,
    ethernet,
    is_right,
    packet,
    solicitation,
    tcp,
    udp,
)
from tests.support.synjitsu import armed, made_addresses, wake_limit
from tests.support.vms import make_vm
from tests.support.work import instructions
from tests.synjitsu.extensions import behind_extension

BOTH = pytest.mark.parametrize("addresses", [V4, V6])
FUZZ_FRAMES = int(os.environ.get("FUZZ_FRAMES", "200000"))


@BOTH
def test_a_syn_is_read_with_and_without_a_vlan_tag(addresses: tuple[bytes, bytes]) -> None:
    for vlan in (0, 7):
        seen = frames.read(tcp(addresses=addresses, vlan=vlan))
        assert (seen.kind, seen.source, seen.destination) == (Kind.TCP, CLIENT_MAC, VM_MAC)
        assert (seen.sender, seen.target) == addresses
        assert (seen.source_port, seen.target_port, seen.flags) == (40_000, 80, SYN)
        assert seen.vlan == (b"\x81\0\0\x07" if vlan else b"")


def test_who_asks_and_who_tells_is_read() -> None:
    asks = frames.read(arp(1, CLIENT_MAC, *V4))
    assert (asks.kind, asks.sender, asks.target) == (Kind.ASKS, *V4)
    assert frames.read(arp(2, VM_MAC, V4[1], V4[1])).kind is Kind.TELLS
    asks = frames.read(solicitation(CLIENT_MAC, *V6))
    assert (asks.kind, asks.sender, asks.target) == (Kind.ASKS, *V6)
    (advert,) = frames.announcements(VM_MAC, V6[1])
    assert (frames.read(advert).kind, frames.read(advert).sender) == (Kind.TELLS, V6[1])


@BOTH
def test_what_is_replayed_has_right_checksums_and_the_guests_mac(addresses: tuple[bytes, bytes]) -> None:
    guest = b"\x02\0\0\0\0\x09"
    for frame in (tcp(addresses=addresses), udp(9, 7, b"odd", addresses), udp(9, 7, b"x" * 1200, addresses)):
        broken = frame[:-1] + bytes([frame[-1]])
        replayed = frames.replayed(broken, frames.read(broken), guest)
        assert replayed[:6] == guest
        assert is_right(replayed)
        assert not is_right(frame)
        padded = frames.replayed(frame + b"\0" * 6, frames.read(frame), guest)  # Ethernet's own, below 60 bytes
        assert padded[: len(replayed)] == replayed


@BOTH
def test_a_client_that_nobody_will_answer_is_told_so(addresses: tuple[bytes, bytes]) -> None:
    syn = tcp(sequence=2**32 - 1, addresses=addresses)
    told = frames.rejection(syn, frames.read(syn), VM_MAC)
    assert told is not None
    seen = frames.read(told)
    assert (seen.destination, seen.source, seen.sender, seen.target) == (CLIENT_MAC, VM_MAC, *addresses[::-1])
    assert (seen.source_port, seen.target_port, seen.flags, seen.ack) == (80, 40_000, RST | ACK, 0)
    assert is_right(told)
    datagram = udp(9, 7, b"data" * 300, addresses)
    told = frames.rejection(datagram, frames.read(datagram), VM_MAC)
    assert told is not None
    assert is_right(told)
    seen = frames.read(told)
    assert (seen.kind, seen.source_port, seen.target_port) == (Kind.UNREACHABLE, 7, 9)


@BOTH
def test_questions_and_answers_are_right(addresses: tuple[bytes, bytes]) -> None:
    sender, target = addresses
    ask = arp(1, CLIENT_MAC, sender, target) if len(sender) == 4 else solicitation(CLIENT_MAC, sender, target)
    answered = frames.read(frames.answer(VM_MAC, target, frames.read(ask)))
    assert (answered.kind, answered.sender, answered.destination) == (Kind.TELLS, target, CLIENT_MAC)
    question = frames.read(frames.question(frames.read(tcp(addresses=addresses)), target))
    assert (question.kind, question.source, question.sender, question.target) == (Kind.ASKS, CLIENT_MAC, sender, target)
    if len(sender) == 16:
        assert is_right(frames.answer(VM_MAC, target, frames.read(ask)))
        assert is_right(frames.question(frames.read(ask), target))
        for_itself = frames.read(solicitation(CLIENT_MAC, bytes(16), target))
        assert frames.answer(VM_MAC, target, for_itself)[:6] == frames.ALL_NODES_MAC


@BOTH
def test_a_probe_is_a_bare_syn_whatever_the_kept_one_carries(addresses: tuple[bytes, bytes]) -> None:
    options = struct.pack("!BBHBB8sxx", 2, 4, 1460, 34, 10, b"a cookie")  # RFC 7413, 2
    head = struct.pack("!HHIIBBHHH", 40_000, 80, 5, 0, (20 + len(options)) // 4 << 4, SYN, 64_000, 0, 0)
    kept = packet(6, head + options + b"POST / HTTP/1.1\r\n\r\n", addresses)
    probe = frames.probe(kept, frames.read(kept), VM_MAC, 61_000, 80, 77)
    seen = frames.read(probe)
    assert (seen.kind, seen.sender, seen.target, seen.source_port, seen.target_port, seen.flags) == (
        Kind.TCP,
        *addresses,
        61_000,
        80,
        SYN,
    )
    assert len(probe) == seen.payload_at + 20, "no options and no data"
    assert probe[seen.payload_at + 12] == 0x50
    assert is_right(probe)


def test_what_is_cut_short_is_of_no_interest_and_a_later_fragment_has_no_ports() -> None:
    whole = tcp()
    for length in range(len(whole)):
        assert frames.read(whole[:length]).kind is Kind.OTHER
    first, later = bytearray(udp(9, 7, b"data")), bytearray(udp(9, 7, b"data"))
    first[20:22], later[20:22] = b"\x20\0", b"\0\3"
    assert (frames.read(bytes(first)).kind, frames.read(bytes(first)).target_port) == (Kind.UDP, 7)
    assert (frames.read(bytes(later)).kind, frames.read(bytes(later)).target_port) == (Kind.FRAGMENT, 0)
    assert frames.read(bytes(first)).fragment == frames.read(bytes(later)).fragment != b""
    assert frames.read(udp(9, 7, b"data")).fragment == b""
    fragment = bytearray(whole)
    fragment[21] = 1
    assert frames.read(bytes(fragment)).kind is Kind.OTHER
    options = packet(0, b"\6\0" + bytes(6) + whole[34:], V6)
    assert frames.read(options).kind is Kind.TCP


@pytest.mark.exhaustive
def test_no_frame_whatever_is_in_it_is_too_much() -> None:
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "1")))
    seeds = [
        tcp(),
        tcp(addresses=V6),
        udp(9, 7, b"data"),
        udp(9, 7, b"data", V6),
        arp(1, CLIENT_MAC, *V4),
        arp(2, VM_MAC, V4[1], V4[1]),
        solicitation(CLIENT_MAC, *V6),
        tcp(vlan=3),
        packet(1, b"\x08\0\0\0\0\1\0\1ping"),
        packet(1, b"\3\3\0\0\0\0\0\0" + udp(7, 9, b"x")[14:]),
        packet(58, b"\1\4\0\0\0\0\0\0" + udp(7, 9, b"x", V6)[14:], V6),
        tcp(80, 61_000, SYN | ACK, addresses=V4[::-1], source=VM_MAC),
    ]
    made, activity, now = made_addresses(Kept(10, 50), wake_limit()), Activity(), 0.0
    activity.runs(make_vm(), VM_MAC, "", now, unknown=False)
    for n in range(FUZZ_FRAMES):
        if n % 100 == 0:
            made.watch("v", [str(ip_address(V4[1])), str(ip_address(V6[1]))], VM_MAC, now)
        elif n % 50 == 0:
            armed(made, "v", [str(ip_address(V4[1])), str(ip_address(V6[1]))], VM_MAC, now + 9, now)
        frame = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            frame[chance.randrange(len(frame))] = chance.choice((0, 1, 255, chance.randrange(256)))
        if chance.random() < 0.2:
            del frame[chance.randrange(len(frame)) :]
        seen = frames.read(bytes(frame))
        made.frame(bytes(frame), seen, now)
        activity.frame(seen, now)
        now += chance.random() / 50
        made.tick(now)
        activity.tick(now)
        assert len(made.held.kept) <= 10


@given(st.binary(max_size=200))
def test_bytes_are_read(data: bytes) -> None:
    seen = frames.read(data)
    if seen.kind in (Kind.TCP, Kind.UDP):
        frames.replayed(data, seen, VM_MAC)
        frames.rejection(data, seen, VM_MAC)


STRANGER = b"\x02\0\0\0\0\x77"
OTHERS = frozenset(struct.pack("!HI", 0x0200, 1000 + 7 * n) for n in range(50))


def test_the_kernel_passes_on_all_of_vms_that_are_held() -> None:
    code = program(Interest(held=OTHERS | {VM_MAC}))
    for taken in (tcp(), tcp(to=CLIENT_MAC, source=VM_MAC), arp(1, STRANGER, *V4), solicitation(STRANGER, *V6)):
        assert taken_by(code, taken) == ALL_BYTES
    for other in (tcp(to=STRANGER), tcp(to=STRANGER, addresses=V6), ethernet(0x86DD, b"x" * 60, to=STRANGER)):
        assert not taken_by(code, other)
    assert not taken_by(program(Interest()), tcp())


@BOTH
def test_of_a_vm_that_runs_only_packets_to_the_address_that_is_held_still_are_passed(
    addresses: tuple[bytes, bytes],
) -> None:
    code = program(Interest(absent=frozenset({addresses[1]})))
    elsewhere = (addresses[0], addresses[1][:-1] + b"\x55")
    assert taken_by(code, udp(1, 2, b"x", addresses)) == ALL_BYTES
    assert not taken_by(code, udp(1, 2, b"x", elsewhere))
    assert not taken_by(code, udp(1, 2, b"x", addresses[::-1], source=VM_MAC))
    for taken in (arp(1, STRANGER, *V4), solicitation(STRANGER, *V6)):
        assert taken_by(code, taken) == ALL_BYTES
    both = program(Interest(absent=frozenset({V4[1], V6[1]})))
    assert taken_by(both, tcp(addresses=addresses)) == ALL_BYTES


@pytest.mark.parametrize("addresses", [V4, V6])
def test_of_vms_that_run_it_passes_on_what_begins_and_ends_connections(addresses: tuple[bytes, bytes]) -> None:
    code = program(Interest(running=OTHERS | {VM_MAC}))
    for flags, bytes_taken in (
        (SYN, HEAD_BYTES),
        (SYN | ACK, HEAD_BYTES),
        (RST, HEAD_BYTES),
        (1 | ACK, HEAD_BYTES),
        (ACK, 0),
    ):
        assert taken_by(code, tcp(flags=flags, addresses=addresses)) == bytes_taken
        assert taken_by(code, tcp(flags=flags, addresses=addresses, to=CLIENT_MAC, source=VM_MAC)) == bytes_taken
        assert not taken_by(code, tcp(flags=flags, addresses=addresses, to=STRANGER))
    assert not taken_by(code, udp(1, 2, b"x" * 60, addresses))
    fragment = bytearray(tcp(flags=SYN))
    fragment[14 + 6 : 14 + 8] = b"\0\x05"
    assert not taken_by(code, bytes(fragment))
    awaited = program(Interest(awaited=OTHERS | {VM_MAC}, running=OTHERS | {VM_MAC}))
    assert taken_by(awaited, udp(1, 2, b"x", addresses)) == HEAD_BYTES
    assert not taken_by(awaited, udp(1, 2, b"x", addresses, to=CLIENT_MAC, source=VM_MAC)), "only what is sent to it"
    assert not taken_by(awaited, arp(1, CLIENT_MAC, *V4, to=VM_MAC))


@given(st.sets(st.integers(0, 2**32 - 1), max_size=400), st.sets(st.integers(0, 2**32 - 1), max_size=400))
@settings(max_examples=examples(50))
def test_the_filter_finds_each_of_many_vms_and_no_other(ours: set[int], theirs: set[int]) -> None:
    code = program(Interest(held=frozenset(struct.pack("!HI", 0x0200, end) for end in ours)))
    stranger = struct.pack("!HI", 0x0200, next(end for end in itertools.count() if end not in ours))
    for end in ours | theirs:
        assert bool(taken_by(code, tcp(to=struct.pack("!HI", 0x0200, end), source=stranger))) is (end in ours)


def test_of_what_is_sent_to_a_vm_that_is_flooded_some_is_taken_and_of_what_it_sends_all() -> None:
    code = program(Interest(held=OTHERS | {VM_MAC}, flooded=frozenset({VM_MAC})))
    assert 100 < sum(taken_by(code, tcp()) > 0 for _ in range(64 * 200)) < 300
    assert taken_by(code, tcp(to=CLIENT_MAC, source=VM_MAC)) == ALL_BYTES
    assert taken_by(code, tcp(to=min(OTHERS))) == ALL_BYTES
    assert taken_by(code, arp(1, CLIENT_MAC, *V4)) == ALL_BYTES


def test_of_what_is_sent_to_a_running_vm_that_is_flooded_and_of_what_it_sends_some_istaken_by() -> None:
    code = program(Interest(running=OTHERS | {VM_MAC}, awaited=OTHERS | {VM_MAC}, sampled=frozenset({VM_MAC})))
    for frame in (tcp(), tcp(flags=SYN | ACK, to=CLIENT_MAC, source=VM_MAC)):
        assert 100 < sum(taken_by(code, frame) > 0 for _ in range(64 * 200)) < 300
    assert taken_by(code, tcp(to=min(OTHERS))) == HEAD_BYTES


def test_a_filter_is_never_longer_than_the_kernel_takes_and_then_passes_more() -> None:
    for count in (100, 1000, 5000):
        macs = frozenset(struct.pack("!HI", 0x0200, n * 977) for n in range(1, count))
        for interest in (Interest(held=macs), Interest(awaited=macs, running=macs), Interest(running=macs)):
            code = program(interest)
            assert len(code) <= MAX_INSTRUCTIONS
            assert taken_by(code, tcp(to=max(macs))) >= (ALL_BYTES if interest.held else HEAD_BYTES)


def test_a_filter_that_would_be_too_long_is_not_made_first() -> None:
    macs = frozenset(struct.pack("!HI", 0x0200, n * 977) for n in range(1, 10_000))
    for interest in (Interest(held=macs), Interest(awaited=macs, running=macs), Interest(running=macs)):
        assert instructions(partial(program, interest)) < len(macs)


@pytest.mark.parametrize("extension", sorted(frames.EXTENSIONS))
@pytest.mark.parametrize("frame", [udp(1, 2, b"x", V6), tcp(flags=SYN | ACK, addresses=V6)], ids=["UDP", "TCP"])
def test_what_is_behind_an_ipv6_extension_header_is_passed_on_both_ways_and_read(frame: bytes, extension: int) -> None:
    vms = OTHERS | {VM_MAC}
    there = behind_extension(frame, extension)
    back = CLIENT_MAC + VM_MAC + there[12:]
    for interest in (Interest(running=vms), Interest(running=vms, listened=vms), Interest(listened=vms)):
        code = program(interest)
        assert taken_by(code, there) == taken_by(code, back) == HEAD_BYTES
        assert not taken_by(code, STRANGER + there[6:])
    whole, behind = frames.read(frame), frames.read(there)
    assert (behind.kind, behind.source_port, behind.target_port) == (whole.kind, whole.source_port, whole.target_port)
    no_extension = behind_extension(frame, 58)
    assert not taken_by(program(Interest(running=vms)), no_extension), "ICMPv6 is not one"


@pytest.mark.parametrize("addresses", [V4, V6])
def test_of_vms_that_are_listened_to_it_passes_on_datagrams_both_ways(addresses: tuple[bytes, bytes]) -> None:
    code = program(Interest(listened=OTHERS | {VM_MAC}))
    assert taken_by(code, udp(1, 2, b"x", addresses)) == HEAD_BYTES
    assert taken_by(code, udp(1, 2, b"x", addresses, to=CLIENT_MAC, source=VM_MAC)) == HEAD_BYTES
    assert not taken_by(code, udp(1, 2, b"x", addresses, to=STRANGER))
    for other in (tcp(addresses=addresses), arp(1, CLIENT_MAC, *V4, to=VM_MAC)):
        assert not taken_by(code, other)
