"""The machine of one VM whose addresses are held: while it is off, if traffic may wake it, and while it boots.

Synjitsu answers for the addresses of such a VM and keeps the first packets that come for it. When vmd says that it is
about to start the VM (ArmRequested), Synjitsu keeps the bridge from flooding to the guest's port, announces the
addresses and asks for the guest. The guest is there per address, as presence.py says. Then the guest gets what was kept
for that address, and when one address is handed over, vmd hears of it. If the boot fails, Synjitsu rejects what it has
kept in the guest's name, so that clients do not wait in vain; it goes on to do so for REFUSE_S, because a client that
was given the address just before may connect only now.

    state     event                then                       what happens
    watching  ArmRequested         armed                      ShutPort; SendFrame: announcements, of each absent address
    watching  AskedFor             watching                   SendFrame: the answer, to an ARP probe too (RFC 5227, 2.4)
    watching  Claimed              watching                   SendFrame: an announcement, at most every DEFEND_S
    watching  PacketSeen           watching                   kept; Wake, unless that is under way
    watching  WakeRefused          watching                   SendFrame: a rejection of each attempt
    watching  GuestFrameSeen       watching, armed, released  if it shows an address, the VM runs, whoever started it:
                                                              armed if anything is kept, else released. Nothing in the
                                                              first SETTLE_S: frames of before may be late
    watching  ReadyReported        armed                      as if the guest had shown itself at all addresses
    watching  FailureReported      released                   SendFrame: a rejection of each attempt
    watching  ManagedReported, ProbeAnswered, UdpRefused, Tick  watching  nothing
    armed     ArmRequested         armed                      the limit moves; after ReadyReported it is another boot
    armed     AskedFor             armed                      address absent: SendFrame: the answer; nothing if it is an
                                                              ARP probe or duplicate address detection, which may be
                                                              the guest's own
    armed     PacketSeen           armed                      address absent: kept. A SYN that comes within PASSING_S of
                                                              the guest showing itself: as presence.py says
    armed     GuestFrameSeen       armed, released            what the guest answers without having been sent it is no
                                                              longer kept. If the frame shows an absent address:
                                                              OpenPort, and what was kept for it is replayed
    armed     ProbeAnswered        armed, released            as presence.py says
    armed     UdpRefused           armed                      as presence.py says
    armed     ManagedReported      armed, released            `by_xenstore`: all IPv4 addresses are present, but their
                                                              SYNs are the guest's; ClearEntries in CLEAR_AFTER_S
    armed     ReadyReported        armed                      absent addresses are asked for at once, and held still;
                                                              ClearEntries
    armed     FailureReported      refusing, released         SendFrame: a rejection of each attempt that is left;
                                                              OpenPort; ClearEntries; absent addresses are `missing`.
                                                              Released if any address had been handed over
    armed     Tick                 armed, refusing, released  announcements and questions that are due; what is due at
                                                              each address; after the limit as with FailureReported
    armed     Claimed, WakeRefused  armed                     nothing
    refusing  AskedFor             refusing                   SendFrame: the answer
    refusing  PacketSeen           refusing                   SendFrame: a rejection
    refusing  ArmRequested         armed                      as while watching
    refusing  GuestFrameSeen       refusing, released         released if it shows an address
    refusing  ReadyReported        released                   nothing
    refusing  Tick                 refusing, released         released when REFUSE_S has passed
    refusing  Claimed, WakeRefused, ManagedReported, ProbeAnswered, UdpRefused, FailureReported  refusing  nothing
    released  ArmRequested, ReadyReported, FailureReported, ManagedReported, WakeRefused, Tick  released  nothing: the
                                                              addresses are the guest's, or nobody's
    released  AskedFor, Claimed, PacketSeen, GuestFrameSeen, ProbeAnswered, UdpRefused  released  nothing

ReportHandover is an action of every event while armed, once: when the first address is handed over. When all are, and
PASSING_S is over, the VM is released.

What comes for an absent address is kept, though the bridge brings it to the guest too once it has heard any frame of
the guest. Such a SYN is replayed unless the guest has answered it; a repeated SYN does no harm. Such a datagram is left
to the guest if it came within LEFT_TO_GUEST_S before the guest showed itself, when the guest may have had its address
already: it must not run twice. A frame leaves `kept` when its address is present or when it is rejected, so none
reaches the guest twice (G4).

With `by_xenstore`, for guests with the original's TCP stack, an IPv4 SYN is written into Xenstore (layout.py) as it is
kept (WriteEntry), and an IPv4 frame of the guest does not make it present: its stack looks into Xenstore when it is
ready to, and then says so (ManagedReported).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_synjitsu.rules import frames, layout
from jitsu_synjitsu.rules import handover_rows as rows
from jitsu_synjitsu.rules.asking import Asking
from jitsu_synjitsu.rules.events import (
    Action,
    Appeared,
    ArmRequested,
    AskedFor,
    Claimed,
    ClearEntries,
    Event,
    FailureReported,
    GuestFrameSeen,
    ManagedReported,
    OpenPort,
    PacketSeen,
    ProbeAnswered,
    ReadyReported,
    ReportHandover,
    SendFrame,
    UdpRefused,
    WakeRefused,
    WriteEntry,
)
from jitsu_synjitsu.rules.frames import Kind, Seen
from jitsu_synjitsu.rules.handover_state import LEFT_TO_GUEST_S, PASSING_S, BootFacts, GuestFacts, HandoverState
from jitsu_synjitsu.rules.kept import Item
from jitsu_synjitsu.rules.presence import AddressHandover, AddressState, shows_presence
from jitsu_synjitsu.rules.probes import Probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jitsu_synjitsu.rules.kept import Kept


@dataclass
class Handover:
    """One VM."""

    vm: str
    addresses: tuple[bytes, ...]
    guest: GuestFacts
    since: float
    """When it was begun to hold its addresses."""
    kept: Kept
    probe_port: Callable[[], int]
    """Gives another port each time."""
    limit: float = float("inf")
    """When the boot counts as failed."""
    state: HandoverState = HandoverState.WATCHING
    boot: BootFacts = field(default_factory=BootFacts)
    asking: Asking = field(default_factory=Asking)
    presences: dict[bytes, AddressHandover] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    """What follows from the event that is being handled."""

    def __post_init__(self) -> None:
        """Begin with every address absent."""
        self.all_absent()

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return what is to be done because of an event."""
        self.actions = []
        step(TRANSITIONS, self, event, now)
        return self.actions

    def tick(self, now: float) -> Sequence[Action]:
        """Return what is due."""
        self.actions = []
        step(TRANSITIONS, self, Tick(), now)
        return self.actions

    def deadline(self) -> float | None:
        """Return when to call `tick`."""
        if self.state is HandoverState.REFUSING:
            return self.limit
        if self.state is not HandoverState.ARMED:
            return None
        due = [self.limit]
        due += [at for each in self.presences.values() if (at := each.deadline()) is not None]
        if self.absent():
            due.append(self.asking.deadline())
        elif all(presence.state is AddressState.HANDED for presence in self.presences.values()):
            due.append(self.settled_at())
        return min(due)

    # --- what is known ---

    @property
    def replayed(self) -> int:
        """Return how many frames the guest was sent."""
        return self.boot.replayed + sum(presence.replayed for presence in self.presences.values())

    @property
    def lingers(self) -> bool:
        """Say whether the guest is there, and only addresses that have not appeared are left."""
        states = {presence.state for presence in self.presences.values()}
        return self.state is HandoverState.ARMED and states == {AddressState.HANDED, AddressState.ABSENT}

    def shows(self, seen: Seen) -> bool:
        """Say whether a frame of the guest shows an address of the VM."""
        return seen.sender in self.presences and shows_presence(seen)

    def absent(self) -> list[bytes]:
        """Return the addresses at which the guest has not shown itself."""
        return [each.address for each in self.presences.values() if each.state is AddressState.ABSENT]

    def held(self) -> list[bytes]:
        """Return the addresses that are answered for."""
        return [] if self.state is HandoverState.RELEASED else self.absent()

    def boot_note(self) -> str:
        """Return what is known of a guest that has sent frames and has none of its addresses; "" of any other."""
        if self.guest.heard_at is None or len(self.absent()) < len(self.addresses):
            return ""
        configured = " and ".join(str(ip_address(address)) for address in self.addresses)
        if self.guest.foreign:
            return f"the guest announces {ip_address(self.guest.foreign)}, configured is {configured}"
        return f"the guest has sent frames, but none from {configured}"

    # --- what the rows of the table have in common ---

    def all_absent(self) -> None:
        """Begin again with every address absent."""
        self.boot.replayed = self.replayed
        self.presences = {address: AddressHandover(address, Probes(self.probe_port)) for address in self.addresses}

    def is_written(self, item: Item) -> bool:
        """Say whether a packet goes to the guest through Xenstore."""
        return self.boot.by_xenstore and item.seen.kind is Kind.TCP and len(item.seen.target) == 4

    def write(self, item: Item, now: float) -> None:
        """Write a SYN into Xenstore, if it goes to the guest that way."""
        if self.is_written(item):
            entry = layout.entry(item.frame, item.seen, int(now * 250_000) % 2**32)
            self.actions.append(WriteEntry(self.vm, entry))

    def clear(self, after_s: float) -> None:
        """Remove what was written into Xenstore, after a while."""
        if self.boot.by_xenstore:
            self.boot.by_xenstore = False
            self.actions.append(ClearEntries(self.vm, self.addresses, after_s))

    def announce_and_ask(self, now: float) -> None:
        """Send the announcements and questions that are due."""
        self.actions += self.asking.due(self.guest.mac, self.absent(), now)

    def keep(self, event: PacketSeen, now: float) -> None:
        """Keep a packet for an absent address."""
        item = Item(event.frame, event.seen, now)
        self.kept.keep(self.vm, frames.flow_of(item.seen), item, replaces=item.seen.kind is Kind.TCP)
        self.asking.waits(event.seen.target, event.seen, now)

    def appear(self, address: bytes, now: float) -> None:
        """Note that the guest is at an address, and let it have what was kept for it."""
        self.actions.append(OpenPort(self.vm))
        items = [item for _, item in self.kept.take_if(self.vm, lambda item: item.seen.target == address)]
        own = [item for item in items if not self._is_left_to_guest(item, now)]
        self.actions += self.presences[address].handle(Appeared(self.guest.mac, own), now)

    def _is_left_to_guest(self, item: Item, now: float) -> bool:
        if item.seen.kind is Kind.TCP or self.guest.heard_at is None:
            return False
        return self.guest.heard_at < item.at and now - item.at < LEFT_TO_GUEST_S

    def reject(self, items: Iterable[Item]) -> None:
        """Tell clients, in the guest's name, that nobody is there."""
        for item in items:
            rejection = frames.rejection(item.frame, item.seen, self.guest.mac)
            if rejection is not None:
                self.actions.append(SendFrame(rejection, "rejection"))

    def reject_kept(self) -> None:
        """Reject everything that is kept."""
        self.reject(item for _, item in self.kept.take(self.vm))

    def finish_if_handed(self, now: float) -> None:
        """Report to vmd when the first address is handed over; release the VM when all are."""
        if self.state is not HandoverState.ARMED:
            return
        handed = [presence.state is AddressState.HANDED for presence in self.presences.values()]
        if any(handed) and not self.boot.is_reported:
            self.boot.is_reported = True
            self.actions += [OpenPort(self.vm), ReportHandover(self.vm, self.guest.mac)]
        if all(handed) and now >= self.settled_at():
            self.state = HandoverState.RELEASED

    def settled_at(self) -> float:
        """Return when no packet is on its way any more that passed the bridge before it knew the guest's port."""
        return max(presence.since for presence in self.presences.values()) + PASSING_S


_EVENTS = (
    ArmRequested,
    AskedFor,
    Claimed,
    PacketSeen,
    WakeRefused,
    GuestFrameSeen,
    ReadyReported,
    FailureReported,
    ManagedReported,
    ProbeAnswered,
    UdpRefused,
    Tick,
)
_Row = tuple["Callable[[Handover, Any, float], None]", set[HandoverState]]
_Table = dict[tuple[HandoverState, type[Any]], Transition[Handover]]
_W, _A, _F, _R = HandoverState


def _rows(state: HandoverState, own: dict[type[Any], _Row]) -> _Table:
    """Return the rows of one state; events that are not named change nothing."""
    every: dict[type[Any], _Row] = {event: (rows.ignore, {state}) for event in _EVENTS} | own
    return {(state, event): Transition(handle, frozenset(then)) for event, (handle, then) in every.items()}


TRANSITIONS: _Table = {
    **_rows(
        _W,
        {
            ArmRequested: (rows.begin_boot, {_A}),
            AskedFor: (rows.answer, {_W}),
            Claimed: (rows.defend, {_W}),
            PacketSeen: (rows.wake, {_W}),
            WakeRefused: (rows.not_woken, {_W}),
            GuestFrameSeen: (rows.runs_already, {_W, _A, _R}),
            ReadyReported: (rows.is_up, {_A}),
            FailureReported: (rows.let_go, {_R}),
        },
    ),
    **_rows(
        _A,
        {
            ArmRequested: (rows.arm_again, {_A}),
            AskedFor: (rows.answer, {_A}),
            PacketSeen: (rows.keep, {_A}),
            GuestFrameSeen: (rows.guest_frame, {_A, _R}),
            ReadyReported: (rows.ready, {_A}),
            FailureReported: (rows.fail, {_F, _R}),
            ManagedReported: (rows.managed, {_A, _R}),
            ProbeAnswered: (rows.probe_answered, {_A, _R}),
            UdpRefused: (rows.udp_refused, {_A}),
            Tick: (rows.look, {_A, _F, _R}),
        },
    ),
    **_rows(
        _F,
        {
            ArmRequested: (rows.begin_boot, {_A}),
            AskedFor: (rows.answer, {_F}),
            PacketSeen: (rows.refuse, {_F}),
            GuestFrameSeen: (rows.is_back, {_F, _R}),
            ReadyReported: (rows.release, {_R}),
            Tick: (rows.end_refusing, {_F, _R}),
        },
    ),
    **_rows(_R, {}),
}
