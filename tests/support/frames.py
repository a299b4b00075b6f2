"""Frames for tests of Synjitsu, built here and not by what is tested."""

from __future__ import annotations

import socket
import struct

VM_MAC, CLIENT_MAC = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
V4 = (socket.inet_aton("10.0.0.9"), socket.inet_aton("10.0.0.1"))
V6 = (socket.inet_pton(socket.AF_INET6, "fd00::9"), socket.inet_pton(socket.AF_INET6, "fd00::1"))
"""A client's address, and the VM's."""
SYN, RST, ACK = 2, 4, 16


def ethernet(ethertype: int, payload: bytes, to: bytes = VM_MAC, source: bytes = CLIENT_MAC, vlan: int = 0) -> bytes:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return to + source + tag + struct.pack("!H", ethertype) + payload


def packet(protocol: int, payload: bytes, addresses: tuple[bytes, bytes] = V4, **more: object) -> bytes:
    sender, target = addresses
    if len(sender) == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0) + sender + target
        return ethernet(0x0800, head + payload, **more)  # type: ignore[arg-type]
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + sender + target
    return ethernet(0x86DD, head + payload, **more)  # type: ignore[arg-type]


def tcp(
    source_port: int = 40_000,
    target_port: int = 80,
    flags: int = SYN,
    sequence: int = 5,
    ack: int = 0,
    addresses: tuple[bytes, bytes] = V4,
    **more: object,
) -> bytes:
    segment = struct.pack("!HHIIBBHHH", source_port, target_port, sequence, ack, 0x50, flags, 64_000, 0, 0)
    return packet(6, segment, addresses, **more)


def udp(source_port: int, target_port: int, data: bytes, addresses: tuple[bytes, bytes] = V4, **more: object) -> bytes:
    return packet(17, struct.pack("!HHHH", source_port, target_port, 8 + len(data), 0) + data, addresses, **more)


def answer_to(probe: bytes, flags: int, mac: bytes = VM_MAC) -> bytes:
    """Return what a guest answers to a SYN: it acknowledges the SYN's sequence number and one more."""
    ip_at = 18 if probe[12:14] == b"\x81\0" else 14
    at, addresses = ip_at + 20, (probe[ip_at + 12 : ip_at + 16], probe[ip_at + 16 : ip_at + 20])
    if probe[ip_at] >> 4 == 6:
        at, addresses = ip_at + 40, (probe[ip_at + 8 : ip_at + 24], probe[ip_at + 24 : ip_at + 40])
    source_port, target_port, sequence = struct.unpack_from("!HHI", probe, at)
    acknowledged = (sequence + 1) % 2**32
    return tcp(target_port, source_port, flags, 99, acknowledged, addresses[::-1], source=mac, to=probe[6:12])


def arp(op: int, mac: bytes, sender: bytes, target: bytes, **more: object) -> bytes:
    body = b"\0\1\x08\0\6\4" + struct.pack("!H", op) + mac + sender + bytes(6) + target
    return ethernet(0x0806, body, **{"to": b"\xff" * 6, "source": mac} | more)  # type: ignore[arg-type]


def solicitation(mac: bytes, sender: bytes, target: bytes) -> bytes:
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    body = b"\x87\0\0\0\0\0\0\0" + target
    return packet(58, body, (sender, group), source=mac, to=b"\x33\x33" + group[12:])


def free_probe(mac: bytes, target: bytes) -> bytes:
    """Return what a machine sends that looks whether an address is free: an ARP probe, or a solicitation of DAD."""
    return arp(1, mac, bytes(4), target) if len(target) == 4 else solicitation(mac, bytes(16), target)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071), the slow way."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def is_right(frame: bytes) -> bool:
    """Say whether an IP frame without a tag has right checksums."""
    if frame[12:14] == b"\x08\0":
        payload, addresses, protocol = frame[34:], frame[26:34], frame[23]
        if checksum(frame[14:34]):
            return False
    else:
        payload, addresses, protocol = frame[54:], frame[22:54], frame[20]
    if protocol == 1:
        return not checksum(payload)
    return not checksum(addresses + struct.pack("!II", len(payload), protocol) + payload)
