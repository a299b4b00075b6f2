"""Which VMs are armed, and whose address is whose: every frame finds its machine here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover import (
    FIRST_PROBE_PORT,
    PROBE_PORTS,
    AskedFor,
    FailureTold,
    GuestFrameSeen,
    Handover,
    HandoverState,
    PacketSeen,
    ProbeAnswered,
    ReadyTold,
    Send,
    UdpRefused,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from jitsu_synjitsu.rules.handover import Action, Event
    from jitsu_synjitsu.rules.kept import Kept

_FIRST = {Kind.UDP, Kind.ECHO}
MOVED_S = 3.0
"""So long clients may go on with the MAC address that was announced: for a second they take no other (arp(7))."""


@dataclass
class Arming:
    """All VMs that are armed, or to which is handed over just now."""

    kept: Kept
    handed_over: int = 0
    replayed: int = 0
    _vms: dict[str, Handover] = field(default_factory=dict)
    _owners: dict[bytes, Handover] = field(default_factory=dict)
    """By IP address."""
    _macs: dict[bytes, Handover] = field(default_factory=dict)
    _moved: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    """MAC address that was announced -> the one that the guest turned out to have, and until when that matters."""
    _ports: itertools.count[int] = field(default_factory=itertools.count)

    def addresses(self) -> list[str]:
        """Return every address that is held."""
        return sorted(str(ip_address(address)) for address in self._owners)

    def macs(self) -> list[bytes]:
        """Return the MAC addresses of all VMs that are armed."""
        return sorted({*self._macs, *self._moved})

    def arm(self, vm: str, addresses: Sequence[str], mac: bytes, limit: float, now: float) -> list[Action]:
        """Hold a VM's addresses; asked again, only the limit moves."""
        machine = self._vms.get(vm)
        if machine is not None:
            machine.limit = limit
            return []
        packed = tuple(ip_address(address).packed for address in addresses)
        for address in packed:
            if (other := self._owners.get(address)) is not None:
                self._forget(other)  # the address has another VM now: the configuration is asked before a VM is armed
        machine = self._vms[vm] = Handover(vm, packed, mac, limit, self.kept, self._probe_port)
        self._owners.update(dict.fromkeys(packed, machine))
        self._macs[mac] = machine
        return machine.passed(now)

    def disarm(self, vm: str, outcome: Literal["ready", "failed"], now: float) -> list[Action]:
        """Let go of a VM; nothing if it is not armed."""
        machine = self._vms.get(vm)
        if machine is None:
            return []
        return self._handle(machine, ReadyTold() if outcome == "ready" else FailureTold(), now)

    def frame(self, frame: bytes, now: float) -> list[Action]:
        """Take a frame from the bridge."""
        seen = frames.read(frame)
        actions: list[Action] = []
        if (moved := self._moved.get(seen.destination)) is not None and seen.source != moved[0]:
            actions.append(Send(frames.replayed(frame, seen, moved[0]), "forward"))
        guest = self._macs.get(seen.source)
        claims = seen.kind in (Kind.ASKS, Kind.TELLS)
        if guest is None and claims and any(seen.sender) and seen.sender in self._owners:
            guest = self._owners[seen.sender]  # it has another MAC address than was known
            self._moved[guest.mac] = (seen.source, now + MOVED_S)
            self._macs[seen.source] = guest
        if guest is not None:
            actions += self._handle(guest, GuestFrameSeen(seen.source), now)
            if seen.kind is Kind.TCP:
                actions += self._handle(guest, ProbeAnswered(seen), now)
            elif seen.kind is Kind.UNREACHABLE:
                actions += self._handle(guest, UdpRefused(seen), now)
            return actions
        machine = self._owners.get(seen.target)
        if machine is None:
            return actions
        if seen.kind is Kind.ASKS:
            return self._handle(machine, AskedFor(seen), now)
        is_syn = seen.kind is Kind.TCP and seen.flags & (frames.SYN | frames.ACK | frames.RST) == frames.SYN
        if is_syn or seen.kind in _FIRST:
            return self._handle(machine, PacketSeen(frame, seen), now)
        return actions

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        due = [machine.next_deadline() for machine in self._vms.values()]
        return min([*due, *(until for _, until in self._moved.values())], default=None)

    def passed(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        self._moved = {mac: moved for mac, moved in self._moved.items() if moved[1] > now}
        for machine in list(self._vms.values()):
            if machine.next_deadline() <= now:
                actions += self._after(machine, machine.passed(now))
        return actions

    def _handle(self, machine: Handover, event: Event, now: float) -> list[Action]:
        return self._after(machine, machine.handle(event, now))

    def _after(self, machine: Handover, actions: list[Action]) -> list[Action]:
        if machine.state is HandoverState.RELEASED and self._vms.get(machine.vm) is machine:
            self.replayed += machine.replayed
            self.handed_over += 1
            self._forget(machine)
        return actions

    def _forget(self, machine: Handover) -> None:
        self._vms.pop(machine.vm, None)
        self.kept.take(machine.vm)
        for held in (self._owners, self._macs):
            for key in [key for key, owner in held.items() if owner is machine]:
                del held[key]

    def _probe_port(self) -> int:
        return FIRST_PROBE_PORT + next(self._ports) % PROBE_PORTS
