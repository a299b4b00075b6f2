"""Whose addresses are held, and who may wake whom: every frame finds its machine here."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_protocol.deadlines import Deadlines
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.claims import Claims
from jitsu_synjitsu.rules.events import (
    ArmTold,
    AskedFor,
    Claimed,
    FailureTold,
    GuestFrameSeen,
    ManagedTold,
    PacketSeen,
    ProbeAnswered,
    ReadyTold,
    Send,
    UdpRefused,
    WakeRefused,
)
from jitsu_synjitsu.rules.filter import SAMPLE
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover import Handover, HandoverState
from jitsu_synjitsu.rules.macs import Macs
from jitsu_synjitsu.rules.presence import FIRST_PROBE_PORT, PROBE_PORTS
from jitsu_synjitsu.rules.values import packed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from jitsu_protocol.rates import Buckets, Networks
    from jitsu_synjitsu.rules.events import Action, Event
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.kept import Kept

_FIRST = {Kind.UDP, Kind.ECHO, Kind.FRAGMENT}
V6_NETWORK_BYTES = 8
"""A client has a /64 to itself."""
MOVED_S = 3.0
"""So long clients may go on with the MAC address that was announced: for a second they take no other (arp(7))."""
FLOOD_PACKETS = 1000
"""To one VM between two calls of `count_anew`: more could not be looked at without losing those of others."""
MAX_MISSING = 10_000
"""Addresses that are remembered because a guest has not shown itself there; the latest are."""
DORMANT_S = 30.0
"""A VM that shows itself though vmd says that it is off is let alone so long; by then vmd has seen it too."""


@dataclass
class WakeLimit:
    """Who may wake VMs by traffic, and how many: a scan of a network must not boot all that is in it."""

    allowed: Networks
    """Everyone, if there is none."""
    of_one: Buckets
    of_all: Buckets

    def allow(self, address: bytes, now: float) -> bool:
        """Say whether the owner of an address may wake one more VM now."""
        if self.allowed and address not in self.allowed:
            return False
        source = address if len(address) == 4 else address[:V6_NETWORK_BYTES]
        return self.of_one.take(source, now) and self.of_all.take("", now)


@dataclass
class Arming:
    """All VMs whose addresses are held, or to which is handed over just now."""

    kept: Kept
    wakes: WakeLimit
    unwoken: int = 0
    """Packets to VMs that are off, from somebody who may not wake more."""
    floods: int = 0
    """How often a VM was sent more than can be looked at."""
    replayed: int = 0
    changed: bool = False
    """More is to be seen than before, at once; set back by who looks at it."""
    shrunk: bool = False
    """Less is to be seen than before, which has time; set back by who looks at it."""
    _watched: dict[str, tuple[tuple[bytes, ...], bytes]] = field(default_factory=dict)
    """VMs that are off and that traffic may wake: their addresses and MAC address."""
    _dormant: dict[str, float] = field(default_factory=dict)
    """Of these, the ones that are let alone, until when."""
    _vms: dict[str, Handover] = field(default_factory=dict)
    _owners: dict[bytes, Handover] = field(default_factory=dict)
    """By IP address."""
    _macs: Macs[Handover] = field(default_factory=Macs)
    _moved: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    """MAC address that was announced -> the one that the guest turned out to have, and until when that matters."""
    _learned: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """VM -> the MAC address that it was said to have, and the one that it has."""
    _missing: dict[bytes, str] = field(default_factory=dict)
    """Address at which a guest has not shown itself in its last boot -> another that it has announced, if any."""
    _lingering: set[str] = field(default_factory=set)
    """VMs that are there, but not at all of their addresses."""
    claims: Claims = field(default_factory=Claims)
    _macs_of: dict[str, set[bytes]] = field(default_factory=dict)
    """VM -> its keys in `_macs`."""
    _deadlines: Deadlines[tuple[str, str | bytes]] = field(default_factory=Deadlines)
    """Of machines and of what `_moved` and `_dormant` hold: no frame costs a look at all of them."""
    _packets: Counter[str] = field(default_factory=Counter)
    """To each VM since `count_anew`."""
    _flooded: set[str] = field(default_factory=set)
    _ports: itertools.count[int] = field(default_factory=itertools.count)

    def addresses(self) -> list[str]:
        """Return every address that is held."""
        return sorted(str(ip_address(address)) for machine in self._vms.values() for address in machine.held())

    def rivals(self) -> dict[str, bytes]:
        """Return the addresses of VMs which another machine says it has, and its MAC address."""
        return {str(ip_address(address)): mac for address, mac in self.claims.rivals.items()}

    def new_rivals(self) -> dict[str, bytes]:
        """Return those that were found since this was asked last."""
        return {str(ip_address(address)): mac for address, mac in self.claims.new_rivals()}

    def macs(self) -> frozenset[bytes]:
        """Return the MAC addresses of all VMs whose addresses are held, without those that linger."""
        held = frozenset(mac for mac, machine in self._macs.items() if machine.vm not in self._lingering)
        return held | frozenset(self._moved)

    def lingering(self) -> frozenset[bytes]:
        """Return the addresses that are held of VMs that are there: a busy VM is not looked at as a whole for these."""
        return frozenset(address for vm in self._lingering if vm in self._vms for address in self._vms[vm].held())

    def arm(
        self,
        vm: str,
        addresses: Sequence[str],
        mac: bytes,
        limit: float,
        now: float,
        *,
        by_xenstore: bool = False,
        probed_port: int | None = None,
    ) -> list[Action]:
        """Hold a VM's addresses while it boots; asked again, only the limit moves.

        `probed_port` is the TCP port to which vmd connects, from this host, to find out whether the VM is ready.
        """
        self._watched.pop(vm, None)
        machine = self._vms.get(vm)
        if machine is not None and machine.state is HandoverState.REFUSING:
            self._forget(machine)  # it may be configured otherwise by now
            machine = None
        machine = machine or self._hold(vm, packed(addresses), self.mac_of(vm, mac), now)
        machine.probed_port = probed_port
        return self._handle(machine, ArmTold(limit, by_xenstore), now)

    def mac_of(self, vm: str, mac: bytes) -> bytes:
        """Return the MAC address that a VM turned out to have when it was configured to have this one."""
        configured, real = self._learned.get(vm, (mac, mac))
        return real if configured == mac else mac

    def watch(self, vm: str, addresses: Sequence[str], mac: bytes, now: float) -> None:
        """Hold the addresses of a VM that is off, and that traffic may wake."""
        watched = (packed(addresses), self.mac_of(vm, mac))
        machine = self._vms.get(vm)
        # It ran, and an address of it is held that never appeared; or its boot has failed, which watching refuses too.
        is_over = machine is not None and (machine.ready or machine.state is HandoverState.REFUSING)
        if machine is not None and (
            is_over or (machine.state is HandoverState.WATCHING and self._watched.get(vm) != watched)
        ):
            self._forget(machine)
            machine = None
        self._watched[vm] = watched
        if machine is None:
            self._hold(vm, *watched, now)

    def unwatch(self, vm: str, now: float, *, runs: bool) -> list[Action]:
        """Note that a VM starts, `runs`, or is none of those that traffic may wake any more."""
        self._watched.pop(vm, None)
        self._dormant.pop(vm, None)
        machine = self._vms.get(vm)
        if machine is None or (machine.state is not HandoverState.WATCHING and (runs or not machine.ready)):
            return []
        return self._handle(machine, ReadyTold() if runs else FailureTold(), now)

    def starts(self, vm: str) -> None:
        """Note that a VM starts: when its boot is over, its addresses are not watched until that is said again."""
        self._watched.pop(vm, None)

    def not_woken(self, vm: str, now: float) -> list[Action]:
        """Note that vmd does not start a VM that traffic should wake."""
        machine = self._vms.get(vm)
        return [] if machine is None else self._handle(machine, WakeRefused(), now)

    def awaits_boot(self, vm: str) -> bool:
        """Say whether a VM's addresses are held because vmd has said that it starts it."""
        machine = self._vms.get(vm)
        return machine is not None and machine.state is HandoverState.ARMED and machine.armed and not machine.ready

    def disarm(self, vm: str, outcome: Literal["ready", "failed"], now: float) -> list[Action]:
        """Let go of a VM; nothing if it is not armed."""
        machine = self._vms.get(vm)
        if machine is None:
            return []
        return self._handle(machine, ReadyTold() if outcome == "ready" else FailureTold(), now)

    def managed(self, vm: str, now: float) -> list[Action]:
        """Note that a guest looks after its address itself, as it says in Xenstore."""
        machine = self._vms.get(vm)
        return [] if machine is None else self._handle(machine, ManagedTold(), now)

    def frame(self, frame: bytes, seen: Seen, now: float, *, is_own: bool = False) -> list[Action]:
        """Handle a frame from the bridge, and what is in it; `is_own` says that this host itself has sent it."""
        actions: list[Action] = []
        if (moved := self._moved.get(seen.destination)) is not None and seen.source != moved[0]:
            actions.append(Send(frames.replayed(frame, seen, moved[0]), "forward"))
        guest = self._macs.get(seen.source)
        claims = seen.kind in (Kind.ASKS, Kind.TELLS)
        if guest is None and claims and any(seen.sender) and seen.sender in self._owners:
            guest = self._owners[seen.sender]
            if guest.state is HandoverState.WATCHING:
                self.claims.add_rival(seen.sender, seen.source)
                return actions + self._handle(guest, Claimed(seen), now)
            self.claims.add(guest.vm, seen)
            return actions + self.decide(guest.vm, now)
        if guest is not None:
            actions += self._handle(guest, GuestFrameSeen(seen), now)
            if seen.kind is Kind.TCP:
                actions += self._handle(guest, ProbeAnswered(seen), now)
            elif seen.kind is Kind.UNREACHABLE:
                actions += self._handle(guest, UdpRefused(seen), now)
            return actions
        machine = self._owners.get(seen.target)
        if machine is None:
            return actions
        self._count(machine.vm)
        if seen.kind is Kind.ASKS:
            if machine.state is HandoverState.WATCHING and not any(seen.sender):
                self.claims.add_rival(seen.target, seen.source)  # it looks whether the address is free, to take it
            return self._handle(machine, AskedFor(seen), now)
        is_syn = seen.kind is Kind.TCP and seen.flags & (frames.SYN | frames.ACK | frames.RST) == frames.SYN
        if (is_syn or seen.kind in _FIRST) and self._may_be_kept(machine, seen, now, is_own=is_own):
            return self._handle(machine, PacketSeen(frame, seen), now)
        return actions

    def decide(self, vm: str, now: float) -> list[Action]:
        """Decide the claims on a VM's addresses, if that can be done now: one has come, or its interface is named."""
        own, at = self.claims.decide(vm, now)
        if at is not None:
            self._deadlines.set(("claims", vm), at)
        actions: list[Action] = []
        for seen in own:
            guest = self._vms.get(vm)
            if guest is not None and guest.state is not HandoverState.WATCHING:
                self._learn(guest, seen.source, now)
                actions += self._handle(guest, GuestFrameSeen(seen), now)
        return actions

    def _learn(self, guest: Handover, mac: bytes, now: float) -> None:
        """Note that a guest has another MAC address than was known."""
        self._moved[guest.mac] = (mac, now + MOVED_S)
        self._deadlines.set(("moved", guest.mac), now + MOVED_S)
        self._macs.put(mac, guest)
        self._macs_of.setdefault(guest.vm, set()).add(mac)
        self._learned[guest.vm] = (guest.mac, mac)
        self.changed = True

    def _may_be_kept(self, machine: Handover, seen: Seen, now: float, *, is_own: bool) -> bool:
        """Say whether a packet is to be kept.

        While a VM boots, all are but vmd's own attempts to connect (`wait_for_port`): vmd repeats them many times a
        second. While it is off, only those of clients that may wake it are.
        """
        if machine.state is not HandoverState.WATCHING:
            return not (is_own and seen.kind is Kind.TCP and seen.target_port == machine.probed_port)
        if seen.kind is Kind.ECHO or seen.destination != machine.mac:
            return False
        if seen.kind is Kind.FRAGMENT:
            return machine.waking
        if machine.waking or self.wakes.allow(seen.sender, now):
            return True
        self.unwoken += 1
        return False

    def count_anew(self) -> None:
        """Begin another quarter of a second of counting: a flood may be over."""
        over = {vm for vm in self._flooded if self._packets[vm] * SAMPLE < FLOOD_PACKETS}
        if over:
            self._flooded -= over
            self.changed = True
        self._packets.clear()

    def flooded(self) -> frozenset[bytes]:
        """Return the MAC addresses of VMs that are sent more than can be looked at."""
        return frozenset(mac for vm in self._flooded for mac in self._macs_of.get(vm, ()))

    def _count(self, vm: str) -> None:
        self._packets[vm] += 1
        if self._packets[vm] > FLOOD_PACKETS and vm not in self._flooded:
            self._flooded.add(vm)
            self.floods += 1
            self.changed = True

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        earliest = self._deadlines.earliest()
        return None if earliest is None else earliest[1]

    def passed(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        due: list[tuple[str, str | bytes]] = []
        while (found := self._deadlines.pop_due(now)) is not None:
            due.append(found)
        for what in due:
            match what:
                case ("moved", bytes(mac)) if mac in self._moved:
                    del self._moved[mac]
                    self.changed = True
                case ("dormant", str(vm)) if vm in self._dormant:
                    del self._dormant[vm]
                    if vm in self._watched and vm not in self._vms:
                        self._hold(vm, *self._watched[vm], now)
                case ("claims", str(vm)):
                    actions += self.decide(vm, now)
                case ("machine", str(vm)) if vm in self._vms:
                    machine = self._vms[vm]
                    actions += self._after(machine, machine.passed(now), now)
        return actions

    def holds(self, vm: str) -> bool:
        """Say whether addresses of a VM are held."""
        return vm in self._vms

    def boot_note(self, vm: str) -> str:
        """Return why a VM that boots has not been handed over, as far as its guest's frames tell; "" if they do not."""
        machine = self._vms.get(vm)
        return "" if machine is None else machine.boot_note()

    def missing(self) -> dict[str, str]:
        """Return the addresses at which a VM that runs has never shown itself, and one that it has announced or ""."""
        return {str(ip_address(address)): foreign for address, foreign in self._missing.items()}

    def _note_missing(self, machine: Handover) -> None:
        for address in machine.addresses:
            self._missing.pop(address, None)
        foreign = str(ip_address(machine.foreign)) if machine.foreign else ""
        self._missing |= dict.fromkeys(machine.missing, foreign)
        while len(self._missing) > MAX_MISSING:
            del self._missing[next(iter(self._missing))]

    def _handle(self, machine: Handover, event: Event, now: float) -> list[Action]:
        return self._after(machine, machine.handle(event, now), now)

    def _after(self, machine: Handover, actions: list[Action], now: float) -> list[Action]:
        if machine.lingers is not (machine.vm in self._lingering):
            self._lingering ^= {machine.vm}
            self.changed = True
        is_current = self._vms.get(machine.vm) is machine
        is_refusing = machine.state is HandoverState.REFUSING
        if is_refusing and is_current:
            self._note_missing(machine)
            self.claims.over(machine.vm)
        is_over = machine.state is HandoverState.RELEASED or (is_refusing and machine.vm in self._watched)
        if is_over and is_current:
            self.replayed += machine.replayed
            self._note_missing(machine)
            self._forget(machine)
            if machine.vm in self._watched:
                self._watch_again(machine, now)
        elif self._vms.get(machine.vm) is machine:
            self._schedule(machine)
        return actions

    def _schedule(self, machine: Handover) -> None:
        """Note when a machine wants to look at the clock, which each event may change."""
        if (at := machine.next_deadline()) == float("inf"):
            self._deadlines.discard(("machine", machine.vm))
        else:
            self._deadlines.set(("machine", machine.vm), at)

    def _watch_again(self, machine: Handover, now: float) -> None:
        """Watch a VM whose boot has failed; one that runs though vmd says it is off, in a while."""
        if not machine.armed:
            self._dormant[machine.vm] = now + DORMANT_S
            self._deadlines.set(("dormant", machine.vm), now + DORMANT_S)
        else:
            self._hold(machine.vm, *self._watched[machine.vm], now)

    def _hold(self, vm: str, addresses: tuple[bytes, ...], mac: bytes, now: float) -> Handover:
        for address in addresses:
            if (other := self._owners.get(address)) is not None:
                self._forget(other)  # the address has another VM now: the configuration is asked before a VM is armed
        self._dormant.pop(vm, None)
        machine = self._vms[vm] = Handover(vm, addresses, mac, now, self.kept, self._probe_port)
        self._owners.update(dict.fromkeys(addresses, machine))
        for address in addresses:
            self.claims.rivals.pop(address, None)
        self._macs.put(mac, machine)
        self._macs_of[vm] = {mac}
        self.changed = True
        return machine

    def _forget(self, machine: Handover) -> None:
        self._vms.pop(machine.vm, None)
        self._lingering.discard(machine.vm)
        self._deadlines.discard(("machine", machine.vm))
        self.claims.over(machine.vm)
        self.kept.take(machine.vm)
        self.shrunk = True
        for address in machine.addresses:
            if self._owners.get(address) is machine:
                del self._owners[address]
        for mac in self._macs_of.pop(machine.vm, set()):
            self._macs.drop(mac, machine)

    def _probe_port(self) -> int:
        return FIRST_PROBE_PORT + next(self._ports) % PROBE_PORTS
