"""Packets that nobody meant: mutated from sound ones, and random. `make fuzz` tries many more."""

from __future__ import annotations

import os
import random

import dns.edns
import dns.message
import pytest

from jitsu_dns.rules.exchange import Client
from jitsu_protocol.model.states import VmState
from tests.support.front import ADDRESS, CLIENT, front, state
from tests.support.vms import make_vm

pytestmark = pytest.mark.wires

PACKETS = int(os.environ.get("FUZZ_PACKETS", "200000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
LIMIT_BYTES = 1232
INTERESTING = (0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF)


def sound_packets() -> list[bytes]:
    names = ["www.jitsu.test", "WWW.JITSU.TEST", "x.p.jitsu.test", "nobody.jitsu.test", "jitsu.test", "w.jitsu.test"]
    names += ["1.1.0.127.in-addr.arpa", "example.org", ".", "big.jitsu.test", "version.bind"]
    packets = []
    for name in names:
        for rdtype in ("A", "AAAA", "TXT", "ANY", "SOA", "NS", "PTR", "CNAME", "AXFR", "HTTPS", "OPT"):
            packets.append(dns.message.make_query(name, rdtype).to_wire())
        sets: tuple[list[dns.edns.Option], ...] = (
            [dns.edns.CookieOption(b"12345678", b"")],
            [dns.edns.CookieOption(b"12345678", bytes(16)), dns.edns.ECSOption("192.0.2.0", 24)],
            [
                dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
                dns.edns.GenericOption(dns.edns.OptionType.make(11), b""),
            ],
        )
        for options in sets:
            packets.append(dns.message.make_query(name, "A", options=options, payload=4096).to_wire())
        packets.append(dns.message.make_query(name, "TXT", rdclass="CH", use_edns=0).to_wire())
    return packets


def mutated(chance: random.Random, packet: bytes) -> bytes:
    data = bytearray(packet)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(6):
            case 0 if data:
                data[at] = chance.choice(INTERESTING)
            case 1 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + chance.randrange(8)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(8))
            case 4:
                del data[at:]
            case 5 if len(data) >= 12:
                data[chance.randrange(2, 12)] = chance.randrange(256)
    return bytes(data)


def test_g9_no_packet_is_too_much() -> None:
    chance = random.Random(SEED)
    static = [f"big.jitsu.test. 60 IN TXT {'x' * 250} {'y' * 250} {'z' * 250}"]
    wild = make_vm("wild", "127.0.1.3", dns="*.p.jitsu.test", alias="w.p.jitsu.test")
    www = make_vm("www", "127.0.1.1", alias="w.jitsu.test")
    made = front(www, wild, make_vm("cold", "127.0.1.2"), static=static, max_waiting=100)
    state(made, VmState.READY, www)
    state(made, VmState.READY, wild)
    packets = sound_packets()
    for number in range(PACKETS):
        packet = mutated(chance, chance.choice(packets)) if number % 50 else chance.randbytes(chance.randrange(600))
        udp = number % 3 > 0
        (answer,) = made.warm([packet], float(number)) if udp else (None,)
        if answer is None:
            answer = made.query(packet, Client(CLIENT, ADDRESS, udp), float(number))
        if number % 100 == 0:
            made.passed(float(number))
            made.take()
        if not answer:
            continue
        assert len(packet) >= 12, packet
        assert not packet[2] & 0x80, "a reply to a reply"
        assert answer[:2] == packet[:2]
        assert answer[2] & 0x80
        assert len(answer) <= (LIMIT_BYTES if udp else 65535)
        if number % 10 == 0:
            dns.message.from_wire(answer)
    assert len(made.pending) <= 100
