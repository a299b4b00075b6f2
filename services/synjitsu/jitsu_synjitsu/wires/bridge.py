"""One bridge: the rules for what is on it, and its raw socket while it is there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.driver import Alarm
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.events import ClearEntries, OpenPort, ReportHandover, SendFrame, ShutPort, Wake, WriteEntry
from jitsu_synjitsu.wires.flooding import BridgePorts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.rules.events import Action
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.magic import MagicPackets
    from jitsu_synjitsu.wires.focus import Focus
    from jitsu_synjitsu.wires.lan import Lan, Wire
    from jitsu_synjitsu.wires.ledger import Ledger

LOG_LOSS_S = 60.0

log = structlog.get_logger("synjitsu")


class Outlet(Protocol):
    """What a bridge cannot do itself: reach vmd and Xenstore."""

    def handed_over(self, vm: str) -> None:
        """Report to vmd that the guest is there, and has all that was kept for it."""

    def wake(self, bridge: WatchedBridge, vm: str, packet: Seen | None) -> None:
        """Have vmd start a VM to which somebody has sent a packet."""

    def summon(self, vm: str, packet: Seen) -> None:
        """Have vmd start a VM that a magic packet names."""

    def save(self, vm: str, packet: Seen) -> None:
        """Report to vmd that a VM that drains is used."""

    def write(self, vm: str, values: dict[str, str]) -> None:
        """Write entries into Xenstore."""

    def clear(self, vm: str, addresses: Sequence[bytes], after_s: float) -> None:
        """Remove a VM's entries from Xenstore, after a while."""


@dataclass
class FrameCounts:
    """What has happened to frames on a bridge."""

    sent: Counter[str] = field(default_factory=Counter)
    """By what they were."""
    unsent: Counter[str] = field(default_factory=Counter)
    """Of wires that are closed, by the name of the error."""


@dataclass
class Attachment:
    """How long a bridge has been listened on, and how well."""

    index: int = 0
    """The number of the interface, 0 while it is not there."""
    since: float = float("inf")
    """When it was first attached to."""
    lost_at: float = float("-inf")
    """When it was found last that the kernel had dropped frames."""
    elsewhere: set[str] = field(default_factory=set)
    """VMs of which it was logged that another machine has their MAC address."""


class WatchedBridge:
    """One bridge by its name."""

    def __init__(self, name: str, focus: Focus, lan: Lan, clock: Clock, ledger: Ledger, outlet: Outlet) -> None:
        """`focus` has the VMs that are held on this bridge, and those that run."""
        self.name = name
        self.addresses = focus.addresses
        self.activity = focus.activity
        self.ports = BridgePorts(name, lan, ledger)
        self.counts = FrameCounts()
        self._lan = lan
        self._clock = clock
        self._outlet = outlet
        self._alarm = Alarm(self._tick, clock)
        self._focus = focus
        self._attachment = Attachment()

    @property
    def wire(self) -> Wire | None:
        """Return the packet socket, None while the bridge is not there."""
        return self._focus.wire

    @wire.setter
    def wire(self, wire: Wire | None) -> None:
        self._focus.wire = wire

    @property
    def magic(self) -> MagicPackets:
        """Return the VMs that a magic packet wakes."""
        return self._focus.magic

    @property
    def listens_since(self) -> float:
        """Return when it attached to the bridge for the first time."""
        return self._attachment.since

    def unsent(self) -> Counter[str]:
        """Return the frames that were not sent, by the name of the error."""
        return self.counts.unsent + (self.wire.unsent if self.wire is not None else Counter())

    def look(self) -> None:
        """Attach to the bridge if it came, let go of it if it went; raises SetupFault if that is not allowed."""
        index = self._lan.index(self.name)
        is_broken = self.wire is not None and self.wire.is_broken
        if self.wire is not None and self.wire.has_lost():
            self._note_loss(self._clock.now())
        if index == self._attachment.index and not is_broken:
            return
        if self.wire is not None:
            self.counts.unsent += self.wire.unsent
            self.wire.close()
            self.wire = None
            if not is_broken:
                log.warning("the bridge is gone", bridge=self.name)
            self.ports.detach()
        self._attachment.index = index
        if index:
            self._attach()

    def _note_loss(self, now: float) -> None:
        """Note that the kernel has dropped frames, and log it once a minute at most."""
        self.activity.missed(now)
        if now >= self._attachment.lost_at + LOG_LOSS_S:
            log.warning("frames were not read in time and are lost: connections may be open unseen", bridge=self.name)
        self._attachment.lost_at = now

    def _attach(self) -> None:
        try:
            wire = self._lan.wire(self.name, self._taken)
        except SetupFault:
            self._attachment.index = 0  # it is tried again
            if self._lan.index(self.name):
                raise
            return  # it went at this moment
        self.wire = wire
        self.activity.missed(self._clock.now())
        wire.open()
        self._attachment.since = min(self._attachment.since, self._clock.now())
        self.ports.attach()
        self.addresses.changed = True
        self.focus()
        log.info("listening", bridge=self.name)
        for warning in self._lan.warnings():
            log.warning(warning)

    def warn_if_elsewhere(self, vm: str, mac: bytes) -> None:
        """Log, once for each VM, that the bridge has heard the MAC address of a VM that is off."""
        is_new = vm not in self._attachment.elsewhere and mac not in self.addresses.macs()
        if is_new and self._lan.knows_elsewhere(self.name, mac):
            self._attachment.elsewhere.add(vm)
            log.warning(
                "a VM that is off has its MAC address on the bridge: another machine has the same, or it runs",
                bridge=self.name,
                mac=mac.hex(":"),
                hint=f"bridge fdb show br {self.name} | grep {mac.hex(':')}; give one of them another (its key mac)",
            )

    def forget(self, vm: str) -> None:
        """Forget what was logged of a VM."""
        self._attachment.elsewhere.discard(vm)

    def notes(self) -> list[str]:
        """Return what keeps Synjitsu from doing its work on this bridge, each with what to do about it."""
        notes = [self.wire.warning(), *self.ports.notes()] if self.wire is not None else []
        if (ago := self._clock.now() - self._attachment.lost_at) < (longest := self.activity.longest_idle()):
            notes.append(
                f"frames on {self.name} were lost {ago:.0f} s ago: its VMs that ran then count as connected until "
                f"nothing was sent to them for max_idle_connection ({longest:g} s at most)"
            )
        for address, mac in self.addresses.claims.rivals_shown().items():
            notes.append(f"{address} is held by {mac.hex(':')} too: give one of them another address")
        for address, foreign in self.addresses.missing.shown().items():
            announced = f"it announces {foreign}" if foreign else "check what the guest configures"
            notes.append(f"{address} did not appear when its VM booted: {announced}")
        return [note for note in notes if note]

    def _taken(self, frame: bytes, is_own: bool) -> None:
        seen, now = frames.read(frame), self._clock.now()
        saved = self.activity.frame(seen, now)
        if saved:
            self._outlet.save(saved, seen)
        for woken in self.magic.frame(frame, seen, now):
            self._outlet.summon(woken, seen)
        self.perform(self.addresses.frame(frame, seen, now, is_own=is_own))

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the rules want done, and set the timer for the next deadline."""
        for action in actions:
            match action:
                case SendFrame(frame, what):
                    self.send(frame, what)
                case ShutPort(vm, mac):
                    self.ports.boots(vm, mac)
                case OpenPort(vm):
                    self.ports.settled(vm)
                case ReportHandover(vm, mac):
                    self.activity.has_mac(vm, mac, self._clock.now())
                    self._outlet.handed_over(vm)
                case Wake(vm, packet):
                    self._outlet.wake(self, vm, packet)
                case WriteEntry(vm, values):
                    self._outlet.write(vm, values)
                case ClearEntries(vm, addresses, after_s):
                    self._outlet.clear(vm, addresses, after_s)
        self.focus()
        self._alarm.set(self.addresses.deadline())

    def _tick(self) -> None:
        self.perform(self.addresses.tick(self._clock.now()))

    def send(self, frame: bytes, what: str) -> None:
        """Put a frame on the bridge; nothing if the bridge is not there."""
        self.counts.sent[what] += 1
        if self.wire is None:
            return
        self.wire.send(frame)
        if what == "probe":
            self.activity.sent(frames.read(frame), self._clock.now())

    def focus(self) -> None:
        """See what is of interest now."""
        self._focus.renew()

    def look_now(self) -> None:
        """Take all frames that have come until now."""
        self._focus.now()
        if self.wire is not None:
            self.wire.look()

    def look_around(self) -> None:
        """Do what is due a few times a second: warn of rivals, let floods end, look at VMs again."""
        self.addresses.begin_count()
        for address, mac in self.addresses.claims.new_rivals_shown().items():
            log.warning(
                "another machine claims the address of a VM",
                address=address,
                mac=mac.hex(":"),
                hint=f"bridge fdb show br {self.name} shows its port; give one of them another address",
            )
        self.activity.tick(self._clock.now())
        self.focus()
