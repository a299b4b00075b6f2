"""For whose addresses Synjitsu answers: every frame finds its machine here, and every machine is called in time.

    a frame                                              goes to
    from the MAC address of a VM that is held            its machine, as the guest's own; a TCP segment may answer a
                                                         probe, an ICMP error may refuse a datagram
    that claims an address of a VM, from another MAC     claims.py while the VM boots: the guest itself, or a rival; a
    address                                              rival while it is off
    that asks for such an address                        its machine
    a SYN, a datagram, an echo request to one            its machine, if it may be kept: while the VM is off, only from
                                                         clients that may wake it; while it boots, all but vmd's own
                                                         attempts to connect
    to a MAC address that was announced, though the      the guest, at the address that it has (moved.py)
    guest has another
    any other                                            nobody

A VM is held from when it is watched (it is off, and traffic may wake it) or armed (it is about to boot) until its
machine is released. If it is still to be watched then, it is held again: at once if its boot has failed, after
DORMANT_S if it shows itself although vmd says that it is off. An address belongs to the VM for which it was held last,
because the configuration is asked before a VM is armed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_protocol.deadlines import Deadlines
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.claims import Claims
from jitsu_synjitsu.rules.events import (
    AskedFor,
    Claimed,
    FailureReported,
    GuestFrameSeen,
    ManagedReported,
    PacketSeen,
    ProbeAnswered,
    ReadyReported,
    SendFrame,
    UdpRefused,
    WakeRefused,
)
from jitsu_synjitsu.rules.floods import Floods
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover_state import HandoverState
from jitsu_synjitsu.rules.missing import MissingAddresses
from jitsu_synjitsu.rules.moved import MOVED_S, MovedMacs
from jitsu_synjitsu.rules.values import packed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from jitsu_synjitsu.rules.events import Action, ArmRequested, Event
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.handover import Handover
    from jitsu_synjitsu.rules.held import HeldVms
    from jitsu_synjitsu.rules.waking import WakeLimit

_FIRST = {Kind.UDP, Kind.ECHO, Kind.FRAGMENT}
DORMANT_S = 30.0
"""A VM that shows itself though vmd says that it is off is let alone for this long; by then vmd has seen it too."""


@dataclass
class AddressCounts:
    """What has happened, for metrics and for `jitsu status`."""

    unwoken: int = 0
    """Packets to VMs that are off, from somebody who may not wake more."""
    replayed: int = 0
    """Frames that guests were sent, of VMs that are no longer held."""


@dataclass
class Addresses:
    """All VMs of one bridge whose addresses are held, or to which is handed over just now."""

    held: HeldVms
    wakes: WakeLimit
    claims: Claims = field(default_factory=Claims)
    moved: MovedMacs = field(default_factory=MovedMacs)
    missing: MissingAddresses = field(default_factory=MissingAddresses)
    floods: Floods = field(default_factory=Floods)
    counts: AddressCounts = field(default_factory=AddressCounts)
    changed: bool = False
    """More is to be seen than before, at once; set back by who looks at it."""
    shrunk: bool = False
    """Less is to be seen than before, which has time; set back by who looks at it."""
    _watched: dict[str, tuple[tuple[bytes, ...], bytes]] = field(default_factory=dict, init=False)
    """VMs that are off and that traffic may wake: their addresses and MAC address."""
    _dormant: set[str] = field(default_factory=set, init=False)
    """Of these, the ones that are let alone for a while."""
    _deadlines: Deadlines[tuple[str, str | bytes]] = field(default_factory=Deadlines, init=False)
    """Of machines, of claims, and of what has moved or is dormant: no frame costs a look at all of them."""

    def addresses(self) -> list[str]:
        """Return every address that is held."""
        return sorted(str(ip_address(address)) for machine in self.held.all() for address in machine.held())

    def macs(self) -> frozenset[bytes]:
        """Return the MAC addresses of which every frame is to be seen."""
        return self.held.macs() | self.moved.macs()

    def flooded(self) -> frozenset[bytes]:
        """Return the MAC addresses of VMs that are sent more than can be looked at."""
        return frozenset(mac for vm in self.floods.flooded for mac in self.held.macs_of(vm))

    # --- what vmd and the watchlist say ---

    def arm(self, vm: str, addresses: Sequence[str], mac: bytes, order: ArmRequested, now: float) -> list[Action]:
        """Hold a VM's addresses while it boots; asked again, only the limit moves."""
        self._watched.pop(vm, None)
        machine = self.held.get(vm)
        if machine is not None and machine.state is HandoverState.REFUSING:
            self._forget(machine)  # it may be configured otherwise by now
            machine = None
        machine = machine or self._hold(vm, packed(addresses), self.moved.real(vm, mac), now)
        return self._handle(machine, order, now)

    def watch(self, vm: str, addresses: Sequence[str], mac: bytes, now: float) -> None:
        """Hold the addresses of a VM that is off, and that traffic may wake."""
        watched = (packed(addresses), self.moved.real(vm, mac))
        machine = self.held.get(vm)
        # It ran, and an address of it is held that never appeared; or its boot has failed, which watching refuses too.
        is_over = machine is not None and (machine.boot.is_ready or machine.state is HandoverState.REFUSING)
        if machine is not None and (
            is_over or (machine.state is HandoverState.WATCHING and self._watched.get(vm) != watched)
        ):
            self._forget(machine)
            machine = None
        self._watched[vm] = watched
        if machine is None:
            self._hold(vm, *watched, now)

    def unwatch(self, vm: str, now: float, *, runs: bool) -> list[Action]:
        """Note that a VM starts, `runs`, or is no longer one that traffic may wake."""
        self._watched.pop(vm, None)
        self._dormant.discard(vm)
        machine = self.held.get(vm)
        if machine is None or (machine.state is not HandoverState.WATCHING and (runs or not machine.boot.is_ready)):
            return []
        return self._handle(machine, ReadyReported() if runs else FailureReported(), now)

    def starts(self, vm: str) -> None:
        """Note that a VM starts: when its boot is over, its addresses are not watched until that is said again."""
        self._watched.pop(vm, None)

    def not_woken(self, vm: str, now: float) -> list[Action]:
        """Note that vmd does not start a VM that traffic should wake."""
        return self._handle_if_held(vm, WakeRefused(), now)

    def disarm(self, vm: str, outcome: Literal["ready", "failed"], now: float) -> list[Action]:
        """Let go of a VM; nothing if it is not armed."""
        return self._handle_if_held(vm, ReadyReported() if outcome == "ready" else FailureReported(), now)

    def managed(self, vm: str, now: float) -> list[Action]:
        """Note that a guest looks after its address itself, as it says in Xenstore."""
        return self._handle_if_held(vm, ManagedReported(), now)

    # --- frames ---

    def frame(self, frame: bytes, seen: Seen, now: float, *, is_own: bool = False) -> list[Action]:
        """Handle a frame from the bridge, and what is in it; `is_own` says that this host itself has sent it."""
        actions: list[Action] = []
        real = self.moved.destination(seen.destination)
        if real is not None and seen.source != real:
            actions.append(SendFrame(frames.replayed(frame, seen, real), "forward"))
        guest = self.held.of_mac(seen.source)
        if guest is not None:
            return actions + self._guest_frame(guest, seen, now)
        if seen.kind in (Kind.ASKS, Kind.TELLS) and any(seen.sender):
            claimed = self.held.at(seen.sender)
            if claimed is not None:
                return actions + self._claim(claimed, seen, now)
        machine = self.held.at(seen.target)
        if machine is None:
            return actions
        self.changed |= self.floods.count(machine.vm)
        if seen.kind is Kind.ASKS:
            if machine.state is HandoverState.WATCHING and not any(seen.sender):
                self.claims.add_rival(seen.target, seen.source)  # it looks whether the address is free, to take it
            return self._handle(machine, AskedFor(seen), now)
        is_syn = seen.kind is Kind.TCP and seen.flags & (frames.SYN | frames.ACK | frames.RST) == frames.SYN
        if (is_syn or seen.kind in _FIRST) and self._may_be_kept(machine, seen, now, is_own=is_own):
            is_absent = seen.target in machine.held()
            return ([] if is_absent else actions) + self._handle(machine, PacketSeen(frame, seen), now)
        return actions

    def _guest_frame(self, guest: Handover, seen: Seen, now: float) -> list[Action]:
        actions = self._handle(guest, GuestFrameSeen(seen), now)
        if seen.kind is Kind.TCP:
            actions += self._handle(guest, ProbeAnswered(seen), now)
        elif seen.kind is Kind.UNREACHABLE:
            actions += self._handle(guest, UdpRefused(seen), now)
        return actions

    def _claim(self, machine: Handover, seen: Seen, now: float) -> list[Action]:
        if machine.state is HandoverState.WATCHING:
            self.claims.add_rival(seen.sender, seen.source)
            return self._handle(machine, Claimed(seen), now)
        self.claims.add(machine.vm, seen)
        return self.decide(machine.vm, now)

    def decide(self, vm: str, now: float) -> list[Action]:
        """Decide the claims on a VM's addresses, if that can be done now: one has come, or its interface is named."""
        own, at = self.claims.decide(vm, now)
        if at is not None:
            self._deadlines.set(("claims", vm), at)
        actions: list[Action] = []
        for seen in own:
            machine = self.held.get(vm)
            if machine is not None and machine.state is not HandoverState.WATCHING:
                self.moved.learn(vm, machine.guest.mac, seen.source)
                self._deadlines.set(("moved", machine.guest.mac), now + MOVED_S)
                self.held.add_mac(machine, seen.source)
                self.changed = True
                actions += self._handle(machine, GuestFrameSeen(seen), now)
        return actions

    def _may_be_kept(self, machine: Handover, seen: Seen, now: float, *, is_own: bool) -> bool:
        """Say whether a packet is to be kept.

        While a VM boots, all are but vmd's own attempts to connect (`wait_for_port`): vmd repeats them many times a
        second. While it is off, only those of clients that may wake it are.
        """
        if machine.state is not HandoverState.WATCHING:
            return not (is_own and seen.kind is Kind.TCP and seen.target_port == machine.boot.probed_port)
        if seen.kind is Kind.ECHO or seen.destination != machine.guest.mac:
            return False
        if seen.kind is Kind.FRAGMENT:
            return machine.boot.is_wanted
        if machine.boot.is_wanted or self.wakes.allow(seen.sender, now):
            return True
        self.counts.unwoken += 1
        return False

    def begin_count(self) -> None:
        """Begin another quarter of a second of counting: a flood may be over."""
        self.changed |= self.floods.begin_count()

    # --- time ---

    def deadline(self) -> float | None:
        """Return when to call `tick`."""
        earliest = self._deadlines.earliest()
        return None if earliest is None else earliest[1]

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        due: list[tuple[str, str | bytes]] = []
        while (found := self._deadlines.pop_due(now)) is not None:
            due.append(found)
        for what in due:
            match what:
                case ("moved", bytes(mac)):
                    self.changed |= self.moved.end(mac)
                case ("dormant", str(vm)) if vm in self._dormant:
                    self._dormant.discard(vm)
                    if vm in self._watched and vm not in self.held:
                        self._hold(vm, *self._watched[vm], now)
                case ("claims", str(vm)):
                    actions += self.decide(vm, now)
                case ("machine", str(vm)) if (machine := self.held.get(vm)) is not None:
                    actions += self._after(machine, machine.tick(now), now)
        return actions

    # --- the machines ---

    def _handle_if_held(self, vm: str, event: Event, now: float) -> list[Action]:
        machine = self.held.get(vm)
        return [] if machine is None else self._handle(machine, event, now)

    def _handle(self, machine: Handover, event: Event, now: float) -> list[Action]:
        return self._after(machine, machine.handle(event, now), now)

    def _after(self, machine: Handover, actions: Sequence[Action], now: float) -> list[Action]:
        """Note what has become of a machine, and when it wants to look at the clock."""
        vm = machine.vm
        if machine.lingers is not (vm in self.held.lingering):
            self.held.lingering ^= {vm}
            self.changed = True
        if self.held.get(vm) is not machine:
            return list(actions)
        is_refusing = machine.state is HandoverState.REFUSING
        if is_refusing:
            self.missing.note(machine)
            self.claims.over(vm)
        if machine.state is HandoverState.RELEASED or (is_refusing and vm in self._watched):
            self.counts.replayed += machine.replayed
            self.missing.note(machine)
            self._forget(machine)
            if vm in self._watched:
                self._watch_again(machine, now)
        elif (at := machine.deadline()) is None:
            self._deadlines.discard(("machine", vm))
        else:
            self._deadlines.set(("machine", vm), at)
        return list(actions)

    def _watch_again(self, machine: Handover, now: float) -> None:
        """Watch a VM whose boot has failed; one that runs though vmd says it is off, in a while."""
        if not machine.boot.is_armed:
            self._dormant.add(machine.vm)
            self._deadlines.set(("dormant", machine.vm), now + DORMANT_S)
        else:
            self._hold(machine.vm, *self._watched[machine.vm], now)

    def _hold(self, vm: str, addresses: tuple[bytes, ...], mac: bytes, now: float) -> Handover:
        for address in addresses:
            if (other := self.held.at(address)) is not None:
                self._forget(other)
            self.claims.rivals.pop(address, None)
        self._dormant.discard(vm)
        self.changed = True
        return self.held.add(vm, addresses, mac, now)

    def _forget(self, machine: Handover) -> None:
        self.held.remove(machine)
        self._deadlines.discard(("machine", machine.vm))
        self.claims.over(machine.vm)
        self.shrunk = True
