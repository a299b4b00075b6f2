"""Scapy and rules/frames.py agree on what a frame is: what one builds, the other reads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6ND_NS, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1Q, Ether

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from tests.support.frames import CLIENT_MAC, V4, V6, VM_MAC

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.frames import Seen

BOTH = pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6"])
PORTS = st.integers(1, 65_535)


def shown(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def link(vlan: int = 0) -> Any:
    head = Ether(src=CLIENT_MAC.hex(":"), dst=VM_MAC.hex(":"))
    return head / Dot1Q(vlan=vlan) if vlan else head


def network(addresses: tuple[bytes, bytes]) -> Any:
    source, target = map(shown, addresses)
    return IP(src=source, dst=target) if len(addresses[0]) == 4 else IPv6(src=source, dst=target)


def rebuilt(frame: bytes) -> bytes:
    """Return a frame as scapy builds it from its fields, with checksums and lengths of its own."""
    packet = Ether(frame)
    layer: Any = packet
    while layer:
        for name in ("chksum", "cksum", "len", "plen"):
            if name in layer.fields:
                del layer.fields[name]
        layer = layer.payload
    return bytes(packet)


def both(frame: bytes) -> tuple[Seen, Any]:
    return frames.read(frame), Ether(frame)


@BOTH
@given(PORTS, PORTS, st.integers(0, 255), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 4094]))
def test_a_segment_of_scapys_is_read_as_scapy_meant_it(
    addresses: tuple[bytes, bytes], source: int, target: int, flags: int, ack: int, vlan: int
) -> None:
    packet = link(vlan) / network(addresses) / TCP(sport=source, dport=target, flags=flags, ack=ack)
    seen = frames.read(bytes(packet))
    assert (seen.kind, seen.source, seen.destination) == (Kind.TCP, CLIENT_MAC, VM_MAC)
    assert (seen.sender, seen.target) == addresses
    congestion = 0xC0  # CWR and ECE (RFC 3168): they say nothing about connections, and are not read
    assert (seen.source_port, seen.target_port, seen.flags, seen.ack) == (source, target, flags & ~congestion, ack)
    assert bool(seen.vlan) is bool(vlan)


@BOTH
@given(PORTS, PORTS, st.binary(max_size=1400), st.sampled_from([0, 7]))
def test_a_datagram_is_replayed_as_scapy_would_build_it(
    addresses: tuple[bytes, bytes], source: int, target: int, data: bytes, vlan: int
) -> None:
    frame = bytes(link(vlan) / network(addresses) / UDP(sport=source, dport=target) / data)
    seen = frames.read(frame)
    assert (seen.kind, seen.source_port, seen.target_port) == (Kind.UDP, source, target)
    guest = b"\x02\0\0\0\0\x09"
    replayed = frames.replayed(frame, seen, guest)
    assert replayed == guest + frame[6:]
    assert rebuilt(replayed) == replayed


@BOTH
@given(PORTS, PORTS, st.integers(0, 2**32 - 1), st.sampled_from([0, 7]))
def test_a_probe_its_reset_and_a_rejection_are_what_scapy_would_build(
    addresses: tuple[bytes, bytes], source: int, target: int, sequence: int, vlan: int
) -> None:
    syn = bytes(link(vlan) / network(addresses) / TCP(sport=source, dport=target, seq=sequence, flags="S"))
    seen = frames.read(syn)
    probe = frames.probe(syn, seen, VM_MAC, 61_000, target, sequence)
    answer = network(addresses[::-1]) / TCP(sport=target, dport=61_000, flags="SA", ack=sequence)
    reset = frames.reset_of_probe(syn, seen, VM_MAC, frames.read(bytes(Ether() / answer)))
    rejection = frames.rejection(syn, seen, VM_MAC)
    assert rejection is not None
    for frame in (probe, reset, rejection):
        assert rebuilt(frame) == frame
        assert (Dot1Q in Ether(frame)) is bool(vlan)
    assert (Ether(probe)[TCP].flags, Ether(probe)[TCP].seq) == ("S", sequence)
    assert (Ether(reset)[TCP].flags, Ether(reset)[TCP].seq) == ("R", sequence)
    assert (Ether(rejection)[TCP].flags, Ether(rejection)[TCP].ack) == ("RA", (sequence + 1) % 2**32)
    assert Ether(rejection).dst == CLIENT_MAC.hex(":")


@BOTH
@given(PORTS, PORTS, st.binary(max_size=900))
def test_a_rejected_datagram_is_quoted_and_its_message_is_read_back(
    addresses: tuple[bytes, bytes], source: int, target: int, data: bytes
) -> None:
    frame = bytes(link() / network(addresses) / UDP(sport=source, dport=target) / data)
    rejection = frames.rejection(frame, frames.read(frame), VM_MAC)
    assert rejection is not None
    seen, packet = both(rejection)
    assert (seen.kind, seen.source_port, seen.target_port) == (Kind.UNREACHABLE, target, source)
    message = packet[ICMP] if len(addresses[0]) == 4 else packet[ICMPv6DestUnreach]
    assert (message.type, message.code) == ((3, 3) if len(addresses[0]) == 4 else (1, 4))
    assert rebuilt(rejection)[:60] == rejection[:60], "the checksums among these; what is quoted may be cut short"


def test_arp_is_read_and_built_as_scapy_does() -> None:
    client, vm = map(shown, V4)
    asks = Ether(src=CLIENT_MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op="who-has", hwsrc=CLIENT_MAC.hex(":"), psrc=client, pdst=vm
    )
    seen = frames.read(bytes(asks))
    assert (seen.kind, seen.sender, seen.target) == (Kind.ASKS, *V4)
    answer = Ether(frames.answer(VM_MAC, V4[1], seen))[ARP]
    assert (answer.op, answer.hwsrc, answer.psrc, answer.hwdst, answer.pdst) == (
        2,
        VM_MAC.hex(":"),
        vm,
        CLIENT_MAC.hex(":"),
        client,
    )
    assert {Ether(frame)[ARP].op for frame in frames.announcements(VM_MAC, V4[1])} == {1, 2}


def test_neighbour_discovery_is_read_and_built_as_scapy_does() -> None:
    client, vm = map(shown, V6)
    solicitation = link() / IPv6(src=client, dst=vm, hlim=255) / ICMPv6ND_NS(tgt=vm)
    seen = frames.read(bytes(solicitation))
    assert (seen.kind, seen.sender, seen.target) == (Kind.ASKS, *V6)
    advert = frames.answer(VM_MAC, V6[1], seen)
    assert rebuilt(advert) == advert
    found = Ether(advert)[ICMPv6ND_NA]
    assert (found.tgt, found.S, found.O, found.lladdr) == (vm, 1, 1, VM_MAC.hex(":"))
    question = frames.question(seen, V6[1])
    assert rebuilt(question) == question
    assert Ether(question)[ICMPv6ND_NS].tgt == vm


def test_a_datagram_behind_an_extension_header_of_scapys_is_read() -> None:
    packet = link() / network(V6) / IPv6ExtHdrDestOpt() / UDP(sport=5, dport=6) / b"x"
    seen = frames.read(bytes(packet))
    assert (seen.kind, seen.source_port, seen.target_port) == (Kind.UDP, 5, 6)
