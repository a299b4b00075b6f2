"""A mock guest on a tap, as QEMU's guests are: frames queue in the tap from the moment it is opened, and the guest
reads them when it has booted.

It has a small network stack of its own: ARP and neighbour discovery, echo replies, UDP and TCP echo on port 7, HTTP on
its port. It refuses everything else as an ordinary stack does.

    opened              the tap is a port of the bridge and up; nobody reads it
    boot time passed    the guest reads; unless `announces` is false it announces itself first
    + listen_after      it listens; until then it refuses
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ECHO_PORT = 7
MAX_FRAME_BYTES = 65_536 + 18
MAX_SEGMENT_BYTES = 1400
WINDOW_BYTES = 65_000
SELECT_S = 0.5


def open_tap(name: str) -> int:
    """Make a tap, which goes with the descriptor that is returned; raises OSError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


@dataclass
class _Connection:
    """One TCP connection, seen from the guest."""

    received: int
    """Sequence number that is expected next."""
    sent: int
    request: bytes = b""
    closes: bool = False


@dataclass
class Stack:
    """The guest's network stack: receives frames, and sends others."""

    mac: bytes
    addresses: list[bytes]
    http_port: int
    page: Callable[[bytes], bytes]
    """HTTP request -> response."""
    send: Callable[[bytes], None]
    listens: bool = False
    _connections: dict[tuple[bytes, int, bytes, int], _Connection] = field(default_factory=dict)

    def announce(self) -> None:
        """Announce the guest's addresses."""
        for address in self.addresses:
            if len(address) == 4:
                self._arp(1, b"\xff" * 6, address, bytes(6), address)
            else:
                self._advertise(b"\x33\x33\0\0\0\1", address, bytes.fromhex("ff02") + bytes(13) + b"\1", 0x20)

    def receive(self, frame: bytes) -> None:
        """Handle a frame, and send what it calls for."""
        if frame[:6] != self.mac and not frame[0] & 1:
            return
        ethertype = int.from_bytes(frame[12:14], "big")
        if ethertype == ARP and len(frame) >= 42:
            if frame[20:22] == b"\0\1" and frame[38:42] in self.addresses:
                self._arp(2, frame[22:28], frame[38:42], frame[22:28], frame[28:32])
        elif ethertype == IPV4 and len(frame) >= 34:
            end, at = 14 + int.from_bytes(frame[16:18], "big"), 14 + 4 * (frame[14] & 0xF)
            if frame[30:34] in self.addresses:
                self._packet(frame[6:12], frame[23], frame[26:30], frame[30:34], frame[at:end], frame[14:end])
        elif ethertype == IPV6 and len(frame) >= 54:
            end = 54 + int.from_bytes(frame[18:20], "big")
            self._packet(frame[6:12], frame[20], frame[22:38], frame[38:54], frame[54:end], frame[14:end])

    def _packet(self, mac: bytes, protocol: int, client: bytes, own: bytes, body: bytes, whole: bytes) -> None:
        if protocol == ICMPV6 and body[:1] == b"\x87" and body[8:24] in self.addresses:
            self._advertise(mac, body[8:24], client, 0x60)
        elif own not in self.addresses or len(body) < 8:
            return
        elif protocol == TCP:
            self._segment(mac, client, own, body)
        elif protocol == UDP:
            self._datagram(mac, client, own, body, whole)
        elif protocol == ICMP and body[0] == 8:
            self._ip(mac, ICMP, own, client, b"\0\0\0\0" + body[4:])
        elif protocol == ICMPV6 and body[0] == 128:
            self._ip(mac, ICMPV6, own, client, b"\x81\0\0\0" + body[4:])

    def _datagram(self, mac: bytes, client: bytes, own: bytes, body: bytes, whole: bytes) -> None:
        source, target = struct.unpack_from("!HH", body)
        if self.listens and target == ECHO_PORT:
            self._ip(mac, UDP, own, client, struct.pack("!HHHH", target, source, len(body), 0) + body[8:])
        elif len(own) == 4:
            self._ip(mac, ICMP, own, client, b"\3\3\0\0\0\0\0\0" + whole[:512])
        else:
            self._ip(mac, ICMPV6, own, client, b"\1\4\0\0\0\0\0\0" + whole[:512])

    def _segment(self, mac: bytes, client: bytes, own: bytes, body: bytes) -> None:
        source, target, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", body)
        data, key = body[(offset >> 4) * 4 :], (client, source, own, target)

        def answer(kind: int, number: int, expected: int, payload: bytes = b"") -> None:
            options = b"\2\4" + struct.pack("!H", MAX_SEGMENT_BYTES) if kind & SYN else b""
            head = struct.pack(
                "!HHIIBBHHH", target, source, number, expected, (20 + len(options)) << 2, kind, 65_000, 0, 0
            )
            self._ip(mac, TCP, own, client, head + options + payload)

        if flags & RST:
            self._connections.pop(key, None)
        elif flags & SYN:
            connection = self._connections.get(key)
            if connection is not None and connection.received == (sequence + 1) % 2**32:
                answer(SYN | ACK, (connection.sent - 1) % 2**32, connection.received)  # the client has sent it twice
            elif self.listens and target in (ECHO_PORT, self.http_port):
                number = int(SYSTEM_CLOCK.now() * 250_000) % 2**32
                self._connections[key] = _Connection((sequence + 1) % 2**32, (number + 1) % 2**32)
                answer(SYN | ACK, number, (sequence + 1) % 2**32)
            else:
                answer(RST | ACK, 0, (sequence + 1) % 2**32)
        elif (connection := self._connections.get(key)) is None:
            answer(RST, acknowledged, 0)
        elif sequence == connection.received and (data or flags & FIN):
            connection.received = (sequence + len(data) + bool(flags & FIN)) % 2**32
            for payload, kind in self._replies(connection, target, data, bool(flags & FIN)):
                answer(kind, connection.sent, connection.received, payload)
                connection.sent = (connection.sent + len(payload) + bool(kind & FIN)) % 2**32

    def _replies(self, connection: _Connection, port: int, data: bytes, ends: bool) -> Iterator[tuple[bytes, int]]:
        """Return what is sent in answer to data: payloads, and flags."""
        if port == ECHO_PORT:
            if data:
                yield data, PSH | ACK
        elif not connection.closes:
            connection.request += data
            if b"\r\n\r\n" in connection.request:
                yield self.page(connection.request), PSH | ACK
                connection.closes = ends = True
        if not data:
            yield b"", FIN | ACK if ends and port == ECHO_PORT else ACK
        elif ends:
            yield b"", FIN | ACK

    # --- what is sent ---

    def _arp(self, op: int, to: bytes, own: bytes, target_mac: bytes, target: bytes) -> None:
        body = b"\0\1\x08\0\6\4" + struct.pack("!H", op) + self.mac + own + target_mac + target
        self.send(to + self.mac + ARP.to_bytes(2, "big") + body)

    def _advertise(self, mac: bytes, own: bytes, to: bytes, flags: int) -> None:
        self._ip(mac, ICMPV6, own, to, b"\x88\0\0\0" + bytes([flags, 0, 0, 0]) + own + b"\2\1" + self.mac, hops=255)

    def _ip(self, mac: bytes, protocol: int, own: bytes, to: bytes, payload: bytes, hops: int = 64) -> None:
        data, at = bytearray(payload), {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}[protocol]
        pseudo = b"" if protocol == ICMP else own + to + struct.pack("!II", len(data), protocol)
        data[at : at + 2] = _checksum(pseudo + data)
        if len(own) == 4:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0x4000, hops, protocol, 0) + own + to
            head = head[:10] + _checksum(head) + head[12:]
            self.send(mac + self.mac + IPV4.to_bytes(2, "big") + head + data)
        else:
            head = struct.pack("!IHBB", 6 << 28, len(data), protocol, hops) + own + to
            self.send(mac + self.mac + IPV6.to_bytes(2, "big") + head + data)


def _checksum(data: bytes | bytearray) -> bytes:
    """Return the Internet checksum (RFC 1071)."""
    padded = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF or 0xFFFF).to_bytes(2, "big")


def run(descriptor: int, request: dict[str, Any], booted_at: float, page: Callable[[bytes], bytes]) -> Iterator[None]:
    """Be the guest; yields once when it listens, and then goes on for ever."""
    addresses = [ip_address(address).packed for address in request["addresses"]]
    mac = bytes.fromhex(request["mac"].replace(":", ""))
    stack = Stack(mac, addresses, request["port"], page, lambda frame: _write(descriptor, frame))
    while (left := booted_at - SYSTEM_CLOCK.now()) > 0:
        select.select([], [], [], left)
    listens_at = booted_at + request["listen_after"]
    if not request["listen_after"]:
        stack.listens = True
        yield
    if request["announces"]:
        stack.announce()
    while True:
        wait = SELECT_S if stack.listens else max(0.0, listens_at - SYSTEM_CLOCK.now())
        if select.select([descriptor], [], [], wait)[0]:
            stack.receive(os.read(descriptor, MAX_FRAME_BYTES))
        elif not stack.listens:
            stack.listens = True
            yield


def _write(descriptor: int, frame: bytes) -> None:
    try:
        os.write(descriptor, frame)
    except OSError:  # EIO: it is down
        return
