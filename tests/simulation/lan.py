"""The network between guests, clients and Synjitsu: one bridge in memory (tests/support/memory_lan.py).

Guests and clients are plugged into the bridge, and outlive all processes. Synjitsu's sockets do not: those of a process
that was killed take nothing more, and what arrives while it is suspended waits until it reads.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.frames import ACK, SYN, arp, tcp
from tests.support.memory_lan import MemoryBridge, MemoryLan, MemoryWire, Station

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.clock import Timer
    from jitsu_synjitsu.rules.ports import Port
    from jitsu_synjitsu.wires.lan import PortFeed, Taken
    from tests.simulation.simulation import Life, Simulation

BRIDGE = "br0"
REQUEST, REPLY = 1, 2
"""Of ARP (RFC 826)."""
FIN = 1
HTTP = 80
RESENT_S = (1.0, 2.0, 4.0)
"""A SYN that is not answered is sent again after these times (RFC 6298, section 2)."""


class _Timer:
    def cancel(self) -> None:
        """Frames are not called back."""


class OutsideClock:
    """The clock of what is not a process."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def now(self) -> float:
        return self._simulation.now

    def wall(self) -> float:
        return self._simulation.now

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self._simulation.at(self._simulation.now + seconds, None, callback)
        return _Timer()


class _Wire:
    """Synjitsu's socket on the bridge, as one process has it (jitsu_synjitsu.wires.lan.Wire)."""

    def __init__(self, life: Life, taken: Taken, open_wire: Callable[[Taken], MemoryWire]) -> None:
        self._life, self._taken = life, taken
        self._waits: deque[tuple[bytes, bool]] = deque()
        self._wire = open_wire(self._arrives)
        self.unsent, self.is_broken = self._wire.unsent, False
        self.open, self.close = self._wire.open, self._wire.close
        self.watch, self.send = self._wire.watch, self._wire.send
        self.has_lost, self.warning = self._wire.has_lost, self._wire.warning

    def _arrives(self, frame: bytes, is_own: bool) -> None:
        if self._life.alive:
            self._waits.append((frame, is_own))
            self._life.arrives(self.look)

    def look(self) -> None:
        while self._waits:
            self._taken(*self._waits.popleft())


class LanOfProcess(MemoryLan):
    """The network as one Synjitsu sees it."""

    def __init__(self, lan: MemoryLan, life: Life) -> None:
        """Share the bridges of `lan`."""
        self.__dict__.update(lan.__dict__)
        self._shared, self._life = lan, life

    def wire(self, bridge: str, taken: Taken) -> _Wire:  # type: ignore[override]
        return _Wire(self._life, taken, lambda arrives: self._shared.wire(bridge, arrives))

    def ports(  # type: ignore[override]
        self, bridge: str, appeared: Callable[[Port], None], gone: Callable[[int], None]
    ) -> PortFeed:
        feed = self._shared.ports(bridge, appeared, gone)
        opened = feed.open

        def open_feed() -> None:
            opened()
            feed.appeared = lambda port: self._life.arrives(lambda: appeared(port))
            feed.gone = lambda index: self._life.arrives(lambda: gone(index))

        feed.open = open_feed  # type: ignore[method-assign]
        return feed


@dataclass
class GuestOnLan:
    """The network stack of a guest: answers ARP, and accepts connections once it is up."""

    station: Station
    mac: bytes
    address: bytes
    is_up: bool = False
    syns: list[tuple[bytes, int]] = field(default_factory=list)
    """Connection attempts that reached it: client's address and port."""

    def boot(self) -> None:
        """Be up, and say so as most systems do: with a gratuitous ARP."""
        self.is_up = True
        self.station.send(arp(REQUEST, self.mac, self.address, self.address))

    def receive(self, frame: bytes) -> None:
        if not self.is_up:
            return
        if frame[12:14] == b"\x08\x06":
            if frame[20:22] == b"\0\1" and frame[38:42] == self.address and frame[28:32] != self.address:
                self.station.send(arp(REPLY, self.mac, self.address, frame[28:32], to=frame[22:28]))
        elif frame[12:14] == b"\x08\0" and frame[:6] == self.mac and frame[23] == 6 and frame[30:34] == self.address:
            source_port, target_port, sequence = struct.unpack_from("!HHI", frame, 34)
            if frame[47] & (SYN | ACK) == SYN:
                self.syns.append((frame[26:30], source_port))
                flags = SYN | ACK
            elif frame[47] & FIN:
                flags = FIN | ACK
            else:
                return
            back = (self.address, frame[26:30])
            answer = tcp(target_port, source_port, flags, 99, sequence + 1, back, to=frame[6:12], source=self.mac)
            self.station.send(answer)


@dataclass
class ClientOnLan:
    """A client that opens one connection to one address, and keeps it open without a word."""

    simulation: Simulation
    bridge: MemoryBridge
    mac: bytes
    address: bytes
    target: bytes
    port: int
    connected_at: float | None = None
    refused_at: float | None = None
    _mac_of_target: bytes = b""
    _station: Station | None = None

    def connect(self) -> None:
        """Plug in, and try until the connection is open."""
        self._station = self.bridge.plug(f"client{self.port}", self.receive, self.mac)
        for after in (0.0, *RESENT_S):
            self.simulation.at(self.simulation.now + after, None, self._try)

    def close(self) -> None:
        """Close the connection."""
        self._send(FIN | ACK)

    def _try(self) -> None:
        if self.connected_at is not None or self.refused_at is not None or self._station is None:
            return
        if not self._mac_of_target:
            self._station.send(arp(REQUEST, self.mac, self.address, self.target))
        else:
            self._send(SYN)

    def _send(self, flags: int, ack: int = 0) -> None:
        assert self._station is not None
        pair = (self.address, self.target)
        to = self._mac_of_target
        self._station.send(tcp(self.port, HTTP, flags, 5, ack, pair, to=to, source=self.mac))

    def receive(self, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x06":
            if frame[28:32] == self.target and frame[22:28] != self._mac_of_target:
                is_first = not self._mac_of_target
                self._mac_of_target = frame[22:28]
                if is_first:
                    self._try()
            if frame[20:22] == b"\0\1" and frame[38:42] == self.address and self._station is not None:
                self._station.send(arp(REPLY, self.mac, self.address, frame[28:32], to=frame[22:28]))
        elif frame[12:14] == b"\x08\0" and frame[:6] == self.mac and frame[23] == 6 and frame[26:30] == self.target:
            flags = frame[47]
            if flags & 4:
                self.refused_at = self.refused_at or self.simulation.now
            elif flags & (SYN | ACK) == SYN | ACK and self.connected_at is None:
                self.connected_at = self.simulation.now
                self._send(ACK, struct.unpack_from("!I", frame, 38)[0] + 1)
            elif flags & FIN:
                self._send(ACK, struct.unpack_from("!I", frame, 38)[0] + 1)
