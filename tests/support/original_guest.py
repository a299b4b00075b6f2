"""A small model of a guest of the original: its TCP stack takes connections that stand in Xenstore.

It says `managed`, lists the entries for its address, answers each as if the SYN had just come, and removes it
(FACTS.md, 2). Each connection gets back what it sends, once.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

import pyxs

from tests.support.frames import ACK, RST, SYN, arp, checksum, ethernet

if TYPE_CHECKING:
    from pathlib import Path

FIN, PSH = 1, 8
LIMIT_S = 10.0


class OriginalGuest:
    """The guest, on an interface of the namespace of the thread that makes it."""

    def __init__(self, interface: str, mac: bytes, address: str, xenstored: Path) -> None:
        self._mac, self._address = mac, socket.inet_aton(address)
        self._root = f"/ip/{address.replace('.', '-')}".encode()
        self._xenstored = xenstored
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._raw.bind((interface, 0))
        self._raw.settimeout(0.2)
        self._neighbours: dict[bytes, bytes] = {}
        self.accepted: list[tuple[bytes, int]] = []
        self.options: list[str] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def boot(self) -> None:
        """Take over the connections that are kept, then answer."""
        with pyxs.Client(unix_socket_path=str(self._xenstored)) as store:
            store.write(self._root, b"managed")
            for port in store.list(self._root):
                for client in store.list(self._root + b"/" + port):
                    below = self._root + b"/" + port + b"/" + client
                    for client_port in store.list(below):
                        self._accept(store, below + b"/" + client_port + b"/syn", client, int(client_port), int(port))
                    store.delete(below)
        self._thread.start()

    def _accept(self, store: pyxs.Client, syn: bytes, client: bytes, client_port: int, port: int) -> None:
        peer = socket.inet_aton(client.decode().replace("-", "."))
        self.options.append(store.read(syn + b"/options").decode())
        ours = b"\x02\x04\x05\xb4"  # MSS 1460
        if "Window_size_shift" in self.options[-1]:
            ours += b"\x01\x03\x03" + bytes([int(store.read(syn + b"/rx_wnd_scaleoffer"))])
        sequence = int(store.read(syn + b"/sequence")) % 2**32
        self.accepted.append((peer, client_port))
        window = int(store.read(syn + b"/rx_wnd"))
        self._send(peer, port, client_port, int(store.read(syn + b"/tx_isn")), sequence + 1, SYN | ACK, window, ours)

    def _serve(self) -> None:
        while not self._ends.is_set():
            try:
                frame = self._raw.recv(2048)
            except TimeoutError:
                continue
            if frame[12:14] == b"\x08\x06" and frame[38:42] == self._address:
                self._neighbours[frame[28:32]] = frame[22:28]
                if frame[20:22] == b"\0\1":
                    self._raw.send(arp(2, self._mac, self._address, frame[28:32], to=frame[6:12]))
            elif frame[12:14] == b"\x08\0" and frame[30:34] == self._address and frame[23] == 6:
                self._segment(frame[14:])

    def _segment(self, packet: bytes) -> None:
        peer, tcp = packet[12:16], packet[20 : struct.unpack("!H", packet[2:4])[0]]
        client_port, port, sequence, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
        data = tcp[4 * (offset >> 4) :]
        if (peer, client_port) not in self.accepted:
            self._send(peer, port, client_port, ack, 0, RST, 0)
        elif data:
            self._send(peer, port, client_port, ack, sequence + len(data), ACK | PSH, 1000, data=data)
        elif flags & FIN:
            self._send(peer, port, client_port, ack, sequence + 1, ACK | FIN, 1000)

    def _send(
        self,
        peer: bytes,
        port: int,
        client_port: int,
        sequence: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes = b"",
        data: bytes = b"",
    ) -> None:
        offset = (5 + len(options) // 4) << 4
        head = struct.pack("!HHIIBBHHH", port, client_port, sequence, ack % 2**32, offset, flags, window, 0, 0)
        tcp = head + options + data
        total = checksum(self._address + peer + struct.pack("!HH", 6, len(tcp)) + tcp)
        tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + self._address + peer
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self._raw.send(ethernet(0x0800, ip + tcp, to=self._mac_of(peer), source=self._mac))

    def _mac_of(self, peer: bytes) -> bytes:
        while peer not in self._neighbours:
            self._raw.send(arp(1, self._mac, self._address, peer))
            frame = self._raw.recv(2048)
            if frame[12:14] == b"\x08\x06" and frame[28:32] == peer and frame[20:22] == b"\0\2":
                self._neighbours[peer] = frame[22:28]
        return self._neighbours[peer]

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(LIMIT_S)
        self._raw.close()
