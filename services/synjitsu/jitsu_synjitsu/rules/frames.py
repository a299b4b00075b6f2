"""Ethernet frames: what is of interest in one that was seen, and those that are sent.

What is read    ARP (RFC 826), neighbour solicitations and advertisements (RFC 4861), and of IPv4 and IPv6 packets the
                addresses, ports and TCP flags. What is cut short is `OTHER`. Of a datagram in fragments the first has
                the ports and is read like a whole one; the others are `FRAGMENT`.
What is sent    announcements and answers for an address that is held, kept frames with the guest's MAC address and
                right checksums (a frame from the same host arrives with a partial one), a probe like a client's SYN
                from a port of our own, and what tells a client that nobody will answer.

MAC and IP addresses are bytes as on the wire: 6, and 4 or 16. A VLAN tag (IEEE 802.1Q) is 4 bytes that stand behind the
MAC addresses; frames that answer one carry the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum

ARP, IPV4, IPV6, VLAN, QINQ = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
MAGIC = 0x0842
"""The type of frames that are nothing but a magic packet (magic.py)."""
ECHO_PORT, DISCARD_PORT = 7, 9
"""UDP ports to which magic packets are sent (RFC 862, RFC 863)."""
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ARP_REQUEST, ARP_REPLY = 1, 2
ECHO, UNREACHABLE, PORT = 8, 3, 3  # ICMP types, and a code (RFC 792)
ECHO_V6, UNREACHABLE_V6, PORT_V6, SOLICIT, ADVERT = 128, 1, 4, 135, 136  # RFC 4443, RFC 4861
MORE_FRAGMENTS, OFFSET, FRAGMENT_V6 = 0x2000, 0x1FFF, 44  # RFC 791, 3.1; RFC 8200, 4.5
UDP_HEADER_BYTES = 8
BROADCAST = b"\xff" * 6
OUR_MAC = b"\x02JITSU"
"""Locally administered: who asks when nobody else does."""
ALL_NODES_MAC, ALL_NODES = bytes.fromhex("333300000001"), bytes.fromhex("ff020000000000000000000000000001")
UNSPECIFIED_V6 = bytes(16)
MAC_BYTES = 6
OVERRIDE, SOLICITED = 0x20, 0x40  # flags of a neighbour advertisement
MAX_QUOTED_BYTES = 512
PROBE_WINDOW_BYTES = 64_240  # what Linux offers in a SYN; the connection never carries data
_CHAINED = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options (RFC 8200, 4.1)
EXTENSIONS = _CHAINED | {FRAGMENT_V6}
"""IPv6 headers behind which UDP or TCP may be found."""
_MAX_EXTENSIONS = 4


_ANSWERS_V4 = frozenset({0, 3, 4, 5, 11, 12, 14})  # RFC 792: echo reply, errors, redirect, timestamp reply
_ANSWERS_V6 = frozenset({1, 2, 3, 4, 129, 137})  # RFC 4443, RFC 4861


class Kind(Enum):
    """What a frame is."""

    ASKS = "asks"
    """Who has `target`? (ARP request, neighbour solicitation)"""
    TELLS = "tells"
    """`source` has `sender`. (ARP reply, neighbour advertisement)"""
    TCP = "tcp"
    UDP = "udp"
    ECHO = "echo"
    UNREACHABLE = "unreachable"
    """An error to `target`: nobody listens on the UDP port `source_port` of `sender`."""
    ANSWER = "answer"
    """An ICMP message that answers something: an echo reply, or an error other than UNREACHABLE."""
    FRAGMENT = "fragment"
    """A later fragment of a UDP datagram or an ICMP message: it has no ports."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame."""

    kind: Kind
    source: bytes
    """MAC address."""
    destination: bytes
    vlan: bytes = b""
    sender: bytes = b""
    """IP address."""
    target: bytes = b""
    source_port: int = 0
    target_port: int = 0
    flags: int = 0
    """Of TCP."""
    ack: int = 0
    at: int = 0
    """Where the IP header begins."""
    payload_at: int = 0
    """Where the TCP, UDP or ICMP header begins."""
    fragment: bytes = b""
    """Of a fragment: the identification and protocol that all fragments of one datagram have."""
    quoted: bytes = b""
    """Of UNREACHABLE: the header of the datagram that was refused, by which it can be found among others."""


def read(frame: bytes) -> Seen:
    """Take a frame apart; nothing that is in it makes this fail."""
    destination, source, vlan = frame[:6], frame[6:12], b""
    at = 12
    while len(frame) >= at + 4 and _half(frame, at) in (VLAN, QINQ) and len(vlan) < 8:
        vlan += frame[at : at + 4]
        at += 4
    if len(frame) < at + 2 or len(source) < MAC_BYTES:
        return Seen(Kind.OTHER, source, destination)
    ethertype, at = _half(frame, at), at + 2
    if ethertype == ARP:
        return _read_arp(frame, at, source, destination, vlan)
    if ethertype == IPV4:
        return _read_ipv4(frame, at, source, destination, vlan)
    if ethertype == IPV6:
        return _read_ipv6(frame, at, source, destination, vlan)
    return Seen(Kind.OTHER, source, destination, vlan)


def _read_arp(frame: bytes, at: int, source: bytes, destination: bytes, vlan: bytes) -> Seen:
    if len(frame) < at + 28 or frame[at : at + 6] != b"\0\1\x08\0\6\4":
        return Seen(Kind.OTHER, source, destination, vlan)
    kind = {ARP_REQUEST: Kind.ASKS, ARP_REPLY: Kind.TELLS}.get(_half(frame, at + 6), Kind.OTHER)
    return Seen(kind, source, destination, vlan, frame[at + 14 : at + 18], frame[at + 24 : at + 28], at=at)


def _read_ipv4(frame: bytes, at: int, source: bytes, destination: bytes, vlan: bytes) -> Seen:
    if len(frame) < at + 20 or frame[at] >> 4 != 4:
        return Seen(Kind.OTHER, source, destination, vlan)
    sender, target = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
    payload, protocol = at + 4 * (frame[at] & 0xF), frame[at + 9]
    if payload < at + 20:
        return Seen(Kind.OTHER, source, destination, vlan, sender, target, at=at)
    flags, fragment = _half(frame, at + 6), b""
    if flags & (MORE_FRAGMENTS | OFFSET):
        fragment = frame[at + 4 : at + 6] + bytes([protocol])
    kind = Kind.FRAGMENT if flags & OFFSET and protocol in (UDP, ICMP) else Kind.OTHER
    seen = Seen(kind, source, destination, vlan, sender, target, at=at, payload_at=payload, fragment=fragment)
    return seen if flags & OFFSET else _read_payload(frame, protocol, seen)


def _read_ipv6(frame: bytes, at: int, source: bytes, destination: bytes, vlan: bytes) -> Seen:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return Seen(Kind.OTHER, source, destination, vlan)
    sender, target = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    protocol, payload, fragment, offset = frame[at + 6], at + 40, b"", 0
    for _ in range(_MAX_EXTENSIONS):
        if len(frame) < payload + 8:
            break
        if protocol == FRAGMENT_V6:
            protocol, flags = frame[payload], _half(frame, payload + 2)
            if flags & ~6:  # else it is whole (RFC 6946)
                fragment, offset = frame[payload + 4 : payload + 8] + bytes([protocol]), flags & ~7
            payload += 8
        elif protocol in _CHAINED:
            protocol, payload = frame[payload], payload + 8 * (frame[payload + 1] + 1)
        else:
            break
    kind = Kind.FRAGMENT if offset and protocol in (UDP, ICMPV6) else Kind.OTHER
    seen = Seen(kind, source, destination, vlan, sender, target, at=at, payload_at=payload, fragment=fragment)
    return seen if offset else _read_payload(frame, protocol, seen)


def _read_payload(frame: bytes, protocol: int, seen: Seen) -> Seen:
    at = seen.payload_at
    if protocol == TCP and len(frame) >= at + 20:
        ports = (_half(frame, at), _half(frame, at + 2))
        return _with(seen, Kind.TCP, *ports, flags=frame[at + 13] & 0x3F, ack=_word(frame, at + 8))
    if protocol == UDP and len(frame) >= at + 8:
        return _with(seen, Kind.UDP, _half(frame, at), _half(frame, at + 2))
    if len(frame) < at + 8:
        return seen
    if protocol == ICMP and len(seen.sender) == 4:
        return _read_icmp(frame, seen, ECHO, (UNREACHABLE, PORT), 9, 20)
    if protocol != ICMPV6:
        return seen
    if frame[at] in (SOLICIT, ADVERT) and len(frame) >= at + 24:
        about = frame[at + 8 : at + 24]
        if frame[at] == SOLICIT:
            return Seen(Kind.ASKS, seen.source, seen.destination, seen.vlan, seen.sender, about, at=seen.at)
        return Seen(Kind.TELLS, seen.source, seen.destination, seen.vlan, about, seen.target, at=seen.at)
    return _read_icmp(frame, seen, ECHO_V6, (UNREACHABLE_V6, PORT_V6), 6, 40)


def _read_icmp(
    frame: bytes, seen: Seen, echo: int, unreachable: tuple[int, int], protocol_at: int, header: int
) -> Seen:
    at = seen.payload_at
    if frame[at] == echo:
        return _with(seen, Kind.ECHO, _half(frame, at + 4), 0)  # its identifier stands for a port
    quoted = at + 8
    if (frame[at], frame[at + 1]) == unreachable and len(frame) >= quoted + header + 8:
        if header == 20:
            header = 4 * (frame[quoted] & 0xF)
        if len(frame) >= quoted + header + 4 and frame[quoted + protocol_at] == UDP:
            ports = (_half(frame, quoted + header + 2), _half(frame, quoted + header))
            refused = frame[quoted + header : quoted + header + UDP_HEADER_BYTES]
            return replace(seen, kind=Kind.UNREACHABLE, source_port=ports[0], target_port=ports[1], quoted=refused)
    answers = _ANSWERS_V4 if echo == ECHO else _ANSWERS_V6
    return replace(seen, kind=Kind.ANSWER) if frame[at] in answers else seen


def _with(seen: Seen, kind: Kind, source_port: int, target_port: int, flags: int = 0, ack: int = 0) -> Seen:
    return Seen(
        kind,
        seen.source,
        seen.destination,
        seen.vlan,
        seen.sender,
        seen.target,
        source_port,
        target_port,
        flags,
        ack,
        seen.at,
        seen.payload_at,
        seen.fragment,
    )


# --- for an address that is held -----------------------------------------------------------------


def announcements(mac: bytes, address: bytes, vlan: bytes = b"") -> list[bytes]:
    """Return what tells everybody who has an address: gratuitous ARP in both forms (RFC 5944, 4.6), or an
    unsolicited neighbour advertisement (RFC 4861, 7.2.6).
    """
    if len(address) == 4:
        return [
            _arp(ARP_REPLY, BROADCAST + mac + vlan, mac, address, BROADCAST, address),
            _arp(ARP_REQUEST, BROADCAST + mac + vlan, mac, address, bytes(6), address),
        ]
    return [_advert(ALL_NODES_MAC, mac, address, ALL_NODES, OVERRIDE, vlan)]


def answer(mac: bytes, address: bytes, asker: Seen) -> bytes:
    """Return the answer to who has an address."""
    if len(address) == 4:
        return _arp(ARP_REPLY, asker.source + mac + asker.vlan, mac, address, asker.source, asker.sender)
    if asker.sender == UNSPECIFIED_V6:  # it wants the address for itself (RFC 4862, 5.4): everybody gets the answer
        return _advert(ALL_NODES_MAC, mac, address, ALL_NODES, OVERRIDE, asker.vlan)
    return _advert(asker.source, mac, address, asker.sender, SOLICITED | OVERRIDE, asker.vlan)


OURSELVES = {
    4: Seen(Kind.ASKS, OUR_MAC, b"", sender=bytes([169, 254, 0x4A, 0x53])),
    16: Seen(Kind.ASKS, OUR_MAC, b"", sender=bytes.fromhex("fe80000000000000004a49fffe545355")),
}
"""Who asks when nobody waits. Not with an unspecified sender: that would look like an ARP probe or like duplicate
address detection, and a guest that is about to take its address would give it up (RFC 5227, 2.1.1; RFC 4862, 5.4.3).
"""


def is_link_local(address: bytes) -> bool:
    """Say whether an address is of 169.254.0.0/16 or fe80::/10."""
    return address[:2] == b"\xa9\xfe" if len(address) == 4 else address[0] == 0xFE and address[1] & 0xC0 == 0x80


def question(asker: Seen, address: bytes) -> bytes:
    """Return a question for an address in the name of somebody who waits for it: the guest answers when it is there."""
    if len(address) == 4:
        return _arp(ARP_REQUEST, BROADCAST + asker.source + asker.vlan, asker.source, asker.sender, bytes(6), address)
    group = bytes.fromhex("ff0200000000000000000001ff") + address[13:]
    body = bytes([SOLICIT, 0, 0, 0, 0, 0, 0, 0]) + address
    if any(asker.sender):
        body += b"\1\1" + asker.source
    return _icmpv6(b"\x33\x33" + group[12:], asker.source, asker.sender, group, body, asker.vlan)


def _arp(op: int, link: bytes, mac: bytes, address: bytes, target_mac: bytes, target: bytes) -> bytes:
    """Return an ARP packet; `link` is what stands before the Ethertype."""
    head = link + ARP.to_bytes(2, "big")
    return head + b"\0\1\x08\0\6\4" + op.to_bytes(2, "big") + mac + address + target_mac + target


def _advert(to_mac: bytes, mac: bytes, address: bytes, to: bytes, flags: int, vlan: bytes) -> bytes:
    body = bytes([ADVERT, 0, 0, 0, flags, 0, 0, 0]) + address + b"\2\1" + mac
    return _icmpv6(to_mac, mac, address, to, body, vlan)


def _icmpv6(to_mac: bytes, mac: bytes, sender: bytes, target: bytes, body: bytes, vlan: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 255) + sender + target
    total = _sum(sender + target + struct.pack("!II", len(body), ICMPV6) + body)
    return to_mac + mac + vlan + IPV6.to_bytes(2, "big") + header + body[:2] + _folded(total) + body[4:]


# --- kept frames ---------------------------------------------------------------------------------


def flow_of(seen: Seen) -> tuple[object, ...]:
    """Return what makes two frames the same attempt."""
    return (seen.kind, seen.sender, seen.source_port, seen.target, seen.target_port)


def replayed(frame: bytes, seen: Seen, mac: bytes) -> bytes:
    """Return a frame for the guest, with right checksums."""
    frame = mac + frame[MAC_BYTES:]
    return checked(frame, seen) if seen.payload_at else frame


def probe(frame: bytes, seen: Seen, mac: bytes, port: int, target_port: int, sequence: int) -> bytes:
    """Return a SYN in the name of the client of a kept frame, from another port of the client's.

    The answer says whether the guest listens, and belongs to no connection of the client. The SYN carries no data and
    no options: a Fast Open cookie (RFC 7413) with the kept request would make the guest run that request now, and again
    when the kept SYN is replayed.
    """
    segment = struct.pack("!HHIIBBHHH", port, target_port, sequence, 0, 0x50, SYN, PROBE_WINDOW_BYTES, 0, 0)
    hops = frame[seen.at + 8] if len(seen.sender) == 4 else frame[seen.at + 7]
    return _packet(mac + frame[6:12] + seen.vlan, seen.sender, seen.target, TCP, segment, hops)


def reset_of_probe(frame: bytes, seen: Seen, mac: bytes, reply: Seen) -> bytes:
    """Return what ends the connection that a probe has opened half, as its client would."""
    segment = struct.pack("!HHIIBBHHH", reply.target_port, reply.source_port, reply.ack, 0, 0x50, RST, 0, 0, 0)
    return _packet(mac + frame[6:12] + seen.vlan, seen.sender, seen.target, TCP, segment)


def rejection(frame: bytes, seen: Seen, mac: bytes) -> bytes | None:
    """Return what tells a client that nobody will answer its kept frame: RST (RFC 9293, 3.10.7.1), port unreachable."""
    at, link = seen.payload_at, seen.source + mac + seen.vlan
    if seen.kind is Kind.TCP:
        ack = (_word(frame, at + 4) + 1) % 2**32
        segment = struct.pack("!HHIIBBHHH", seen.target_port, seen.source_port, 0, ack, 0x50, RST | ACK, 0, 0, 0)
        return _packet(link, seen.target, seen.sender, TCP, segment)
    if seen.kind is Kind.UDP:
        quoted = frame[seen.at : seen.at + MAX_QUOTED_BYTES]
        if len(seen.sender) == 4:
            message = bytes([UNREACHABLE, PORT, 0, 0, 0, 0, 0, 0]) + quoted
            return _packet(link, seen.target, seen.sender, ICMP, message)
        message = bytes([UNREACHABLE_V6, PORT_V6, 0, 0, 0, 0, 0, 0]) + quoted
        return _packet(link, seen.target, seen.sender, ICMPV6, message)
    return None


def _packet(link: bytes, sender: bytes, target: bytes, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """Return an IP packet with right checksums; `link` is what stands before the Ethertype."""
    if len(sender) == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, hops, protocol, 0) + sender + target
        frame = link + IPV4.to_bytes(2, "big") + header + payload
    else:
        header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + sender + target
        frame = link + IPV6.to_bytes(2, "big") + header + payload
    return checked(frame, read(frame))


def checked(frame: bytes, seen: Seen) -> bytes:
    """Return an IP frame with the checksums of its content, whatever stood there: offload leaves partial ones."""
    at, payload = seen.at, seen.payload_at
    data = bytearray(frame)
    if len(seen.sender) == 4:
        end = min(len(frame), at + _half(frame, at + 2))
        data[at + 10 : at + 12] = b"\0\0"
        data[at + 10 : at + 12] = _folded(_sum(data[at:payload]))
        protocol = frame[at + 9]
    else:
        end = min(len(frame), at + 40 + _half(frame, at + 4))
        protocol = {Kind.TCP: TCP, Kind.UDP: UDP}.get(seen.kind, ICMPV6)
    if seen.fragment:
        return bytes(data)  # its checksum is that of the whole datagram, and whoever fragments completes it first
    where = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}.get(protocol)
    if where is None or end < payload + 8:
        return bytes(data)
    data[payload + where : payload + where + 2] = b"\0\0"
    total = _sum(data[payload:end])
    if protocol != ICMP:
        total += _sum(seen.sender + seen.target + struct.pack("!II", end - payload, protocol))
    folded = _folded(total)
    if protocol == UDP and folded == b"\0\0":
        folded = b"\xff\xff"  # RFC 768: none would be sent
    data[payload + where : payload + where + 2] = folded
    return bytes(data)


def _sum(data: bytes | bytearray) -> int:
    """Return the sum of the 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def _folded(total: int) -> bytes:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _half(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
