"""Bridges in memory, for Synjitsu (jitsu_synjitsu.wires.lan): they learn, flood and forward as the kernel's do.

Stations are plugged into a bridge and send frames. A frame is delivered a moment later, from the clock, so that no
station is called from within its own call. The wires of Synjitsu see what their filter program passes.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_synjitsu.rules.filter import Interest, program
from jitsu_synjitsu.rules.ports import Port
from tests.support.bpf import taken_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.wires.lan import Taken

LATENCY_S = 0.00005
_MULTICAST = 1


class MemoryWire:
    """Synjitsu's socket on a bridge."""

    def __init__(self, bridge: MemoryBridge, taken: Taken) -> None:
        self.bridge = bridge
        self.unsent: Counter[str] = Counter()
        self.is_broken = False
        self.loses = False
        """The next call of `has_lost` says so."""
        self._taken = taken
        self._is_open = False
        self._code = program(Interest())

    def open(self) -> None:
        self._is_open = True
        self.bridge.wires.append(self)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.bridge.wires.remove(self)

    def watch(self, interest: Interest) -> None:
        self._code = program(interest)

    def send(self, frame: bytes) -> None:
        if self.bridge.index:
            self.bridge.transmit(frame, None, self)
        else:
            self.unsent["ENETDOWN"] += 1

    def look(self) -> None:
        """Nothing waits: each frame is taken as it arrives."""

    def has_lost(self) -> bool:
        lost, self.loses = self.loses, False
        return lost

    def warning(self) -> str:
        return ""

    def sees(self, frame: bytes, is_own: bool) -> None:
        size = taken_by(self._code, frame)
        if self._is_open and size:
            self._taken(frame[:size], is_own)


class MemoryFeed:
    """Follows the ports of a bridge."""

    def __init__(self, bridge: MemoryBridge, appeared: Callable[[Port], None], gone: Callable[[int], None]) -> None:
        self.bridge = bridge
        self.appeared, self.gone = appeared, gone

    def open(self) -> None:
        self.bridge.feeds.append(self)
        for station in list(self.bridge.stations.values()):
            self.appeared(station.port())

    def close(self) -> None:
        if self in self.bridge.feeds:
            self.bridge.feeds.remove(self)

    def is_static(self, mac: bytes) -> bool:
        return mac in self.bridge.static


@dataclass
class Station:
    """What is plugged into a port of a bridge; it may send frames."""

    bridge: MemoryBridge
    index: int
    name: str
    mac: bytes
    receive: Callable[[bytes], None]
    floods: bool = True

    def port(self) -> Port:
        return Port(self.index, self.name, self.mac, is_up=True, floods=self.floods)

    def send(self, frame: bytes) -> None:
        self.bridge.transmit(frame, self, None)


@dataclass
class MemoryBridge:
    """One bridge."""

    index: int
    clock: Clock
    numbers: count[int]
    stations: dict[int, Station] = field(default_factory=dict)
    table: dict[bytes, int] = field(default_factory=dict)
    """MAC address -> the port at which it was heard, or is assumed to be."""
    static: set[bytes] = field(default_factory=set)
    wires: list[MemoryWire] = field(default_factory=list)
    feeds: list[MemoryFeed] = field(default_factory=list)

    def plug(self, name: str, receive: Callable[[bytes], None], mac: bytes = b"\xfe\0\0\0\0\0") -> Station:
        """Add a port; `receive` gets each frame that is delivered there."""
        station = Station(self, next(self.numbers), name, mac, receive)
        self.stations[station.index] = station
        for feed in list(self.feeds):
            feed.appeared(station.port())
        return station

    def unplug(self, station: Station) -> None:
        """Remove a port; the bridge forgets what it has heard there."""
        del self.stations[station.index]
        self.table = {mac: index for mac, index in self.table.items() if index != station.index}
        for feed in list(self.feeds):
            feed.gone(station.index)

    def host_sends(self, frame: bytes) -> None:
        """Let this host itself send a frame."""
        self.transmit(frame, None, None)

    def transmit(self, frame: bytes, source: Station | None, wire: MemoryWire | None) -> None:
        """Let a frame pass a little later; from a station, from a wire, or else from this host itself."""
        self.clock.call_in(LATENCY_S, lambda: self._pass(frame, source, wire))

    def _pass(self, frame: bytes, source: Station | None, wire: MemoryWire | None) -> None:
        target, sender = frame[:6], frame[6:12]
        if source is not None:
            if source.index not in self.stations:
                return
            if sender not in self.static and not sender[0] & _MULTICAST:
                self.table[sender] = source.index
        is_to_all = bool(target[0] & _MULTICAST)
        known = None if is_to_all else self.table.get(target)
        for index, station in list(self.stations.items()):
            if source is not None and index == source.index:
                continue
            if index == known or is_to_all or (known is None and station.floods):
                station.receive(frame)
        for each in list(self.wires):
            if each is not wire:
                each.sees(frame, source is None and wire is None)


class MemoryLan:
    """All bridges."""

    def __init__(self, clock: Clock) -> None:
        self.bridges: dict[str, MemoryBridge] = {}
        self.refused: dict[str, str] = {}
        """Bridge -> why no wire can be opened there."""
        self.found_warnings: list[str] = []
        self._clock = clock
        self._numbers = count(1)

    def add(self, name: str) -> MemoryBridge:
        """Make a bridge."""
        self.bridges[name] = bridge = MemoryBridge(next(self._numbers), self._clock, self._numbers)
        return bridge

    def remove(self, name: str) -> None:
        """Remove a bridge."""
        self.bridges.pop(name).index = 0

    def index(self, bridge: str) -> int:
        if bridge in self.bridges:
            return self.bridges[bridge].index
        return next((each.index for each in self._stations() if each.name == bridge), 0)

    def is_bridge(self, name: str) -> bool:
        return name in self.bridges

    def wire(self, bridge: str, taken: Taken) -> MemoryWire:
        if bridge in self.refused or bridge not in self.bridges:
            raise SetupFault(f"cannot listen on the bridge {bridge}: {self.refused.get(bridge, 'no such interface')}")
        return MemoryWire(self.bridges[bridge], taken)

    def ports(self, bridge: str, appeared: Callable[[Port], None], gone: Callable[[int], None]) -> MemoryFeed:
        if bridge not in self.bridges:
            raise OSError(errno.ENODEV, "No such device")
        return MemoryFeed(self.bridges[bridge], appeared, gone)

    def set_flood(self, index: int, floods: bool) -> None:
        self._station(index).floods = floods

    def learn(self, index: int, mac: bytes) -> None:
        table = self._station(index).bridge.table
        if mac in table:
            raise OSError(errno.EEXIST, "File exists")
        table[mac] = index

    def unlearn(self, index: int, mac: bytes) -> None:
        table = self._station(index).bridge.table
        if table.get(mac) != index:
            raise OSError(errno.ENOENT, "No such file or directory")
        del table[mac]

    def heard_at(self, bridge: str, interface: str) -> frozenset[bytes]:
        index, found = self.index(interface), self.bridges.get(bridge)
        if found is None:
            return frozenset()
        return frozenset(mac for mac, at in found.table.items() if at == index)

    def knows_elsewhere(self, bridge: str, mac: bytes) -> bool:
        return bridge in self.bridges and mac in self.bridges[bridge].table

    def warnings(self) -> list[str]:
        return self.found_warnings

    def _stations(self) -> list[Station]:
        return [station for bridge in self.bridges.values() for station in bridge.stations.values()]

    def _station(self, index: int) -> Station:
        found = next((each for each in self._stations() if each.index == index), None)
        if found is None:
            raise OSError(errno.ENODEV, "No such device")
        return found
