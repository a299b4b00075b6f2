"""The machine of one VM whose addresses are held: while it is off, if traffic may wake it, and while it boots.

    state      event                            then
    watching   AskedFor, not by the guest       Send: the answer, to an ARP probe too (RFC 5227, 2.4)
    watching   Claimed by another machine       Send: an announcement, at most every DEFEND_S
    watching   PacketSeen: a SYN, a datagram    kept; Wake, unless that is under way
    watching   WakeRefused                      Send: a rejection of each attempt; watching still
    watching   ArmTold                          ShutPort; armed
    watching   GuestFrameSeen                   if it shows an address of the VM: it runs, whoever started it. As when
                                                armed if anything is kept, else released; nothing in the first
                                                SETTLE_S: frames of before may be late
    watching   ReadyTold                        as if the guest had shown itself at all addresses
    armed      ArmTold                          the limit moves; after ReadyTold it is another boot
    armed      (entered), announcement due      Send: announcements of each address that is absent
    armed      AskedFor, address absent         Send: the answer; nothing if it is an ARP probe or duplicate address
                                                detection, which may be the guest's own
    armed      PacketSeen, address absent       kept
    armed      PacketSeen: a SYN, within PASSING_S of the guest showing itself at that address
                                                replayed like a kept one, unless the guest answers it
    armed      question due                     Send: a question for each absent address in the name of one who waits
                                                for it, else in Synjitsu's own: a guest may never announce itself.
                                                Often at first, and while somebody waits
    armed      GuestFrameSeen                   what the guest answers without having been sent it is no longer kept.
                                                If it shows an address (presence.py), that address is present:
                                                OpenPort, and Send: what was kept for it, as presence.py says
    armed      ProbeAnswered, UdpRefused        as presence.py says
    armed      an address is handed             HandedOver, once; when all of them are, and PASSING_S is over: released
    armed      ReadyTold                        absent addresses are asked for at once, and held still
    armed      FailureTold, limit passed        Send: a rejection of each attempt that is left; OpenPort; addresses that
                                                are absent are `missing`. If none has been handed: refusing, else
                                                released
    refusing   AskedFor, PacketSeen             Send: the answer; a rejection
    refusing   ArmTold                          as watching
    refusing   GuestFrameSeen, as watching; ReadyTold; REFUSE_S passed    released
    watching   FailureTold                      Send: a rejection of each attempt; released
    released   anything                         nothing: the address is the guest's, or nobody's

A boot that has failed is refused for a while, because a client that was given the address in the answer may connect
only now.

So a guest is there per address. What comes for an absent address is kept, though the bridge brings it to the guest too
once it has heard any frame of the guest. Such a SYN is replayed unless the guest has answered it; a repeated SYN does
no harm. Such a datagram is left to the guest if it came within LEFT_TO_GUEST_S before the guest showed itself, when the
guest may have had its address already: it must not run twice.

With `by_xenstore`, for guests with the original's TCP stack, an IPv4 SYN is written into Xenstore (layout.py) as it is
kept:

    armed      PacketSeen: such a SYN           kept; WriteEntry
    armed      GuestFrameSeen, IPv4             nothing: its stack looks into Xenstore when it is ready to
    armed      ManagedTold                      all IPv4 addresses are present, but such SYNs are the guest's;
                                                ClearEntries when it has had CLEAR_AFTER_S to take them
    any        FailureTold, ReadyTold           ClearEntries at once, then as ever

A frame leaves `kept` when its address is present or when it is rejected, so none reaches the guest twice (G4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Bug
from jitsu_synjitsu.rules import frames, layout
from jitsu_synjitsu.rules.events import (
    Action,
    ArmTold,
    AskedFor,
    Claimed,
    ClearEntries,
    Event,
    FailureTold,
    GuestFrameSeen,
    HandedOver,
    ManagedTold,
    OpenPort,
    PacketSeen,
    ProbeAnswered,
    ReadyTold,
    Send,
    ShutPort,
    UdpRefused,
    Wake,
    WakeRefused,
    WriteEntry,
)
from jitsu_synjitsu.rules.frames import Kind, Seen
from jitsu_synjitsu.rules.kept import Item
from jitsu_synjitsu.rules.presence import AddressHandover, AddressState, answers, shows_presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jitsu_synjitsu.rules.kept import Kept

ANNOUNCE_FIRST_S, ANNOUNCE_MAX_S = 0.1, 2.0
"""After the first announcement; each pause is twice the one before."""
ASK_FIRST_S, ASK_S = 0.005, 0.02
"""How often an armed VM is asked for that somebody waits for. At first it is more often, because a unikernel's
announcement may come before the bridge accepts what its new port sends; then the pauses grow.
"""
ASK_SILENT_S = 1.0
"""How often an armed VM is asked for that nobody waits for."""
EAGER_S = 0.1
"""This long after it was armed a VM is asked for often, even if nobody waits for it yet. A unikernel that is up within
milliseconds may lose its announcement in the same way, and `ready = "first-frame"` waits for its next frame.
"""
PASSING_S = 0.05
"""A SYN that comes this soon after the guest has shown itself may have been lost on the bridge: it may have passed, on
another processor, before the bridge learned the guest's port. One of 1,100 SYNs was lost even 1 ms after the guest's
first frame, for a reason that is not known; perhaps the kernel, which handles changes of a new tap's carrier with a
delay, had turned the port off and on once more. A longer time costs a probe for each SYN and nothing else: a SYN that
was delivered is not replayed.
"""
COMING_S = 2.0
"""So long after its first frame a guest is asked for often: duplicate address detection takes 1 s (RFC 4862, 5.4)."""
SETTLE_S = 0.5
CLEAR_AFTER_S = 4.0
DEFEND_S = 10.0  # RFC 5227, 1.1: DEFEND_INTERVAL
REFUSE_S = 3.0
"""An answer that is given while the VM starts has a TTL of 1 s; some caches keep it a little longer."""
LEFT_TO_GUEST_S = 0.05
"""More than a question and its answer take (ASK_S): a guest that shows itself had its address since then at most."""
FOUND_LIMIT_S = 60.0
"""For a guest that somebody else has started; vmd's boot_limit is as long by default."""


class HandoverState(StrEnum):
    """Where a VM's handover stands."""

    WATCHING = "watching"
    ARMED = "armed"
    REFUSING = "refusing"
    RELEASED = "released"


class IllegalEvent(Bug):
    """An event came that the table does not have."""


@dataclass
class Handover:
    """One VM."""

    vm: str
    addresses: tuple[bytes, ...]
    mac: bytes
    since: float
    """When it was begun to hold its addresses."""
    kept: Kept
    probe_port: Callable[[], int]
    """Gives another port each time."""
    limit: float = float("inf")
    """When the boot counts as failed."""
    state: HandoverState = HandoverState.WATCHING
    by_xenstore: bool = False
    probed_port: int | None = None
    """The TCP port to which vmd itself connects while the VM boots."""
    armed: bool = False
    """vmd has said that it starts it; otherwise somebody else has started it."""
    waking: bool = False
    """vmd has been asked to start it."""
    ready: bool = False
    """vmd says that the VM is ready; addresses that have not appeared are held until the limit."""
    missing: tuple[bytes, ...] = ()
    """Once released: the addresses at which the guest never showed itself."""
    foreign: bytes = b""
    """An address that the guest has announced and that is not one of its own as configured."""
    _presences: dict[bytes, AddressHandover] = field(default_factory=dict)
    _replayed: int = 0
    """In earlier boots."""
    _told: bool = False
    """vmd knows that it is handed over."""
    _heard_at: float | None = None
    """When the guest's first frame came: from then on the bridge knows the guest's port."""
    _defended_at: float = float("-inf")
    _announce_at: float = 0.0
    _announce_pause: float = ANNOUNCE_FIRST_S
    _ask_at: float = float("inf")
    _eager_until: float = 0.0
    _ask_pause: float = ASK_FIRST_S
    _askers: dict[bytes, Seen] = field(default_factory=dict)
    """Address -> who asked for it last."""
    _actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with every address absent."""
        self._all_absent()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event."""
        row = TRANSITIONS[self.state]
        if type(event) not in row:
            raise IllegalEvent(f"{type(event).__name__} while {self.state}")
        self._actions = []
        row[type(event)](self, event, now)
        return self._actions

    def next_deadline(self) -> float:
        """Return when `passed` wants to be called."""
        if self.state is HandoverState.REFUSING:
            return self.limit
        if self.state is not HandoverState.ARMED:
            return float("inf")
        due = [presence.deadline() for presence in self._presences.values()]
        if any(self._absent()):
            due += [self._announce_at, self._ask_at]
        elif all(presence.state is AddressState.HANDED for presence in self._presences.values()):
            due.append(self._settled_at())
        return min([self.limit, *due])

    def passed(self, now: float) -> list[Action]:
        """Look at the clock."""
        self._actions = []
        if self.state is HandoverState.REFUSING and now >= self.limit:
            self.state = HandoverState.RELEASED
        elif self.state is HandoverState.ARMED:
            if now >= self.limit:
                self._let_go(FailureTold(), now)
            else:
                self._announce(now)
                self._ask(now)
                for presence in self._presences.values():
                    self._send_all(presence.tick(now))
                self._finish_if_handed(now)
        return self._actions

    @property
    def replayed(self) -> int:
        """Return how many frames the guest was sent."""
        return self._replayed + sum(presence.replayed for presence in self._presences.values())

    def shows(self, seen: Seen) -> bool:
        """Say whether a frame of the guest shows an address of the VM."""
        return seen.sender in self._presences and shows_presence(seen)

    def held(self) -> list[bytes]:
        """Return the addresses that are answered for."""
        return [] if self.state is HandoverState.RELEASED else self._absent()

    def boot_note(self) -> str:
        """Return what is known of a guest that has sent frames and has none of its addresses; "" of any other."""
        if self._heard_at is None or len(self._absent()) < len(self.addresses):
            return ""
        configured = " and ".join(str(ip_address(address)) for address in self.addresses)
        if self.foreign:
            return f"the guest announces {ip_address(self.foreign)}, configured is {configured}"
        return f"the guest has sent frames, but none from {configured}"

    @property
    def lingers(self) -> bool:
        """Say whether the guest is there, and only addresses that have not appeared are left."""
        states = {presence.state for presence in self._presences.values()}
        return self.state is HandoverState.ARMED and states == {AddressState.HANDED, AddressState.ABSENT}

    def _all_absent(self) -> None:
        self._replayed = self.replayed
        self._presences = {address: AddressHandover(address, self.probe_port) for address in self.addresses}

    def _absent(self) -> list[bytes]:
        return [each.address for each in self._presences.values() if each.state is AddressState.ABSENT]

    # --- watching ---

    def _arm(self, event: ArmTold, now: float) -> None:
        if self.state is not HandoverState.ARMED or self.ready:
            self.state, self.by_xenstore, self.ready = HandoverState.ARMED, event.by_xenstore, False
            self._all_absent()
            self._told, self._heard_at, self.foreign = False, None, b""
            self._announce_at, self._announce_pause, self._ask_at = 0.0, ANNOUNCE_FIRST_S, float("inf")
            self._ask_pause, self._eager_until = ASK_FIRST_S, now + EAGER_S
            self._actions.append(ShutPort(self.vm, self.mac))
            for item in self.kept.of(self.vm):
                self._write(item, now)
            self._announce(now)
        self.limit, self.armed = event.limit, True

    def _first_packet(self, event: PacketSeen, now: float) -> None:
        self._keep(event, now)
        if not self.waking:
            self.waking = True
            self._actions.append(Wake(self.vm))

    def _not_woken(self, _: WakeRefused, __: float) -> None:
        self.waking = False
        self._reject(self.kept.take(self.vm))

    def _defend(self, _: Claimed, now: float) -> None:
        if now >= self._defended_at + DEFEND_S:
            self._defended_at = now
            self._announce_all(self.addresses)

    def _runs_already(self, event: GuestFrameSeen, now: float) -> None:
        if now < self.since + SETTLE_S or not self.shows(event.seen):
            return
        if any(True for _ in self.kept.of(self.vm)):
            self.mac, self._heard_at = event.seen.source, now
            self.state, self.limit = HandoverState.ARMED, now + FOUND_LIMIT_S
            self._ask_at = now + ASK_S
            self._appear(event.seen.sender, now)
            self._finish_if_handed(now)
        else:
            self.state = HandoverState.RELEASED

    def _is_up(self, _: ReadyTold, now: float) -> None:
        self.state, self.limit, self._told = HandoverState.ARMED, now + FOUND_LIMIT_S, True
        for address in self.addresses:
            self._appear(address, now)
        self._finish_if_handed(now)

    def _let_go(self, _: FailureTold, now: float) -> None:
        has_failed = self.state is HandoverState.ARMED and not self._told
        if self.state is HandoverState.ARMED:
            if self._told or self._heard_at is not None:
                self.missing = tuple(self._absent())
            self._actions.append(OpenPort(self.vm))
        self.state = HandoverState.REFUSING if has_failed else HandoverState.RELEASED
        self.limit = now + REFUSE_S
        self._clear(0.0)
        self._reject(self.kept.take(self.vm))
        for presence in self._presences.values():
            self._reject(presence.take_left())
        if has_failed:
            self._all_absent()

    # --- refusing ---

    def _refuse(self, event: PacketSeen, now: float) -> None:
        self._reject([Item(event.frame, event.seen, now)])

    def _is_back(self, event: GuestFrameSeen, _: float) -> None:
        if self.shows(event.seen):
            self.state = HandoverState.RELEASED

    def _release(self, _: ReadyTold, __: float) -> None:
        self.state = HandoverState.RELEASED

    # --- armed ---

    def _announce(self, now: float) -> None:
        if now < self._announce_at:
            return
        if not self._announce_at:
            self._ask_at = now + self._ask_pause
        self._announce_at = now + self._announce_pause
        self._announce_pause = min(2 * self._announce_pause, ANNOUNCE_MAX_S)
        self._announce_all(self._absent())

    def _announce_all(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            for frame in frames.announcements(self.mac, address):
                self._send(frame, "announcement")

    def _ask(self, now: float) -> None:
        if now < self._ask_at:
            return
        absent = self._absent()
        is_coming = self._heard_at is not None and now < self._heard_at + COMING_S
        is_awaited = is_coming or now < self._eager_until or any(address in self._askers for address in absent)
        self._ask_at = now + (self._ask_pause if is_awaited else ASK_SILENT_S)
        self._ask_pause = min(2 * self._ask_pause, ASK_S) if is_awaited else ASK_FIRST_S
        for address in absent:
            self._send(frames.question(self._askers.get(address, frames.OURSELVES[len(address)]), address), "question")

    def _answer(self, event: AskedFor, now: float) -> None:
        asker = event.asker
        is_probe = not any(asker.sender)  # whether the address is free (RFC 5227, RFC 4862)
        if self.state is not HandoverState.WATCHING and (is_probe or not self._is_absent(asker.target)):
            return
        self._send(frames.answer(self.mac, asker.target, asker), "answer")
        if not is_probe:
            self._waits(asker.target, asker, now)

    def _keep(self, event: PacketSeen, now: float) -> None:
        item = Item(event.frame, event.seen, now)
        presence = self._presences[event.seen.target]
        if presence.state is not AddressState.ABSENT:
            if event.seen.kind is Kind.TCP and now < presence.since + PASSING_S:
                self._send_all(presence.add_passing(item, now))
            return
        self.kept.keep(self.vm, frames.flow_of(item.seen), item, replaces=item.seen.kind is Kind.TCP)
        if self.state is HandoverState.ARMED:
            self._write(item, now)
        self._waits(event.seen.target, event.seen, now)

    def _is_absent(self, address: bytes) -> bool:
        return self._presences[address].state is AddressState.ABSENT

    def _waits(self, address: bytes, asker: Seen, now: float) -> None:
        self._askers[address] = asker
        self._ask_at = min(self._ask_at, now + self._ask_pause)

    def _write(self, item: Item, now: float) -> None:
        if self._is_written(item):
            entry = layout.entry(item.frame, item.seen, int(now * 250_000) % 2**32)
            self._actions.append(WriteEntry(self.vm, entry))

    def _is_written(self, item: Item) -> bool:
        return self.by_xenstore and item.seen.kind is Kind.TCP and len(item.seen.target) == 4

    # --- handing over ---

    def _guest_frame(self, event: GuestFrameSeen, now: float) -> None:
        seen = event.seen
        self.mac = seen.source
        if self._heard_at is None:
            self._heard_at, self._ask_at = now, min(self._ask_at, now)
        presence = self._presences.get(seen.sender)
        if presence is None:
            is_announced = seen.kind in (Kind.ASKS, Kind.TELLS) and any(seen.sender)
            if is_announced and not frames.is_link_local(seen.sender):
                self.foreign = seen.sender
            return
        if presence.state is AddressState.ABSENT:
            self.kept.take_if(self.vm, lambda item: answers(seen, item.seen))
            if self.shows(seen) and not (self.by_xenstore and len(seen.sender) == 4):
                self._appear(seen.sender, now)
        else:
            presence.answered(seen)
        self._finish_if_handed(now)

    def _managed(self, _: ManagedTold, now: float) -> None:
        if self.by_xenstore:
            self.kept.take_if(self.vm, self._is_written)
            self._clear(CLEAR_AFTER_S)
            for address in self._absent():
                if len(address) == 4:
                    self._appear(address, now)
            self._finish_if_handed(now)

    def _clear(self, after_s: float) -> None:
        if self.by_xenstore:
            self.by_xenstore = False
            self._actions.append(ClearEntries(self.vm, self.addresses, after_s))

    def _ready(self, _: ReadyTold, now: float) -> None:
        self._clear(0.0)
        self.ready = True
        self._ask_at = now
        self._ask(now)

    def _appear(self, address: bytes, now: float) -> None:
        self._actions.append(OpenPort(self.vm))
        items = [item for _, item in self.kept.take_if(self.vm, lambda item: item.seen.target == address)]
        own = [item for item in items if not self._is_left_to_guest(item, now)]
        self._send_all(self._presences[address].appear(self.mac, own, now))

    def _is_left_to_guest(self, item: Item, now: float) -> bool:
        if item.seen.kind is Kind.TCP or self._heard_at is None:
            return False
        return self._heard_at < item.at and now - item.at < LEFT_TO_GUEST_S

    def _probed(self, event: ProbeAnswered, now: float) -> None:
        if event.reply.sender in self._presences:
            self._send_all(self._presences[event.reply.sender].probe_answered(event.reply, now))
            self._finish_if_handed(now)

    def _udp_refused(self, event: UdpRefused, now: float) -> None:
        if event.reply.sender in self._presences:
            self._presences[event.reply.sender].refused(event.reply, now)

    def _finish_if_handed(self, now: float) -> None:
        if self.state is not HandoverState.ARMED:
            return
        handed = [presence.state is AddressState.HANDED for presence in self._presences.values()]
        if any(handed) and not self._told:
            self._told = True
            self._actions += [OpenPort(self.vm), HandedOver(self.vm, self.mac)]
        if all(handed) and now >= self._settled_at():
            self.state = HandoverState.RELEASED

    def _settled_at(self) -> float:
        """Return when no packet is on its way any more that passed the bridge before it knew the guest's port."""
        return max(presence.since for presence in self._presences.values()) + PASSING_S

    def _reject(self, taken: Iterable[tuple[Any, Item]] | Iterable[Item]) -> None:
        for each in taken:
            item = each if isinstance(each, Item) else each[1]
            rejection = frames.rejection(item.frame, item.seen, self.mac)
            if rejection is not None:
                self._send(rejection, "rejection")

    # --- common ---

    def _send_all(self, sends: Iterable[tuple[bytes, str]]) -> None:
        for frame, what in sends:
            self._send(frame, what)

    def _send(self, frame: bytes, what: str) -> None:
        self._actions.append(Send(frame, what))

    def _ignore(self, _: Event, __: float) -> None:
        """Nothing follows."""


_H = Handover

TRANSITIONS: dict[HandoverState, dict[type[Any], Callable[[Handover, Any, float], None]]] = {
    HandoverState.WATCHING: {
        ArmTold: _H._arm,
        WakeRefused: _H._not_woken,
        AskedFor: _H._answer,
        Claimed: _H._defend,
        ManagedTold: _H._ignore,
        PacketSeen: _H._first_packet,
        GuestFrameSeen: _H._runs_already,
        ProbeAnswered: _H._ignore,
        UdpRefused: _H._ignore,
        ReadyTold: _H._is_up,
        FailureTold: _H._let_go,
    },
    HandoverState.ARMED: {
        ArmTold: _H._arm,
        WakeRefused: _H._ignore,
        AskedFor: _H._answer,
        Claimed: _H._ignore,
        PacketSeen: _H._keep,
        ManagedTold: _H._managed,
        GuestFrameSeen: _H._guest_frame,
        ProbeAnswered: _H._probed,
        UdpRefused: _H._udp_refused,
        ReadyTold: _H._ready,
        FailureTold: _H._let_go,
    },
    HandoverState.REFUSING: {
        ArmTold: _H._arm,
        WakeRefused: _H._ignore,
        AskedFor: _H._answer,
        Claimed: _H._ignore,
        ManagedTold: _H._ignore,
        PacketSeen: _H._refuse,
        GuestFrameSeen: _H._is_back,
        ProbeAnswered: _H._ignore,
        UdpRefused: _H._ignore,
        ReadyTold: _H._release,
        FailureTold: _H._ignore,
    },
    HandoverState.RELEASED: dict.fromkeys(
        (
            ArmTold,
            WakeRefused,
            AskedFor,
            Claimed,
            ManagedTold,
            PacketSeen,
            GuestFrameSeen,
            ProbeAnswered,
            UdpRefused,
            ReadyTold,
            FailureTold,
        ),
        _H._ignore,
    ),
}
