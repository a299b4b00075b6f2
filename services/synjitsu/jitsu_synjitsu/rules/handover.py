"""The machine of one VM whose addresses are held: while it is off, if traffic may wake it, and while it boots. Keep
first packets, hand over once, let go.

    state      event                            then
    watching   AskedFor                         Send: the answer
    watching   PacketSeen: a SYN, a datagram    kept; Wake, unless that is under way
    watching   WakeRefused                      Send: a rejection of each attempt; watching still
    watching   ArmTold                          armed
    watching   GuestFrameSeen                   it runs, whoever started it: as when armed if anything is kept, else
                                                released; nothing in the first SETTLE_S: frames of before may be late
    armed      ArmTold                          the limit moves
    armed      (entered), announcement due      Send: announcements of each address
    armed      AskedFor, not by the guest       Send: the answer
    armed      PacketSeen                       kept
    armed      question due                     Send: a question for the address in the name of one who waits for it,
                                                after SILENT_S in nobody's: a guest may never announce itself
    armed      GuestFrameSeen, ReadyTold        Send: what was kept for UDP and ICMP; a probe for each TCP port; rising
    rising     ProbeAnswered: it listens        Send: what was kept for that port, oldest first; a reset of the probe
    rising     ProbeAnswered: it refuses        probed again in RETRY_S: its link is up before its stack listens
    rising     no answer in RETRY_S             probed again
    rising     UdpRefused                       Send: the datagram again in RETRY_S
    rising     nothing is left                  HandedOver; released
    rising     RISE_LIMIT_S passed              Send: all that is left, as the client shall hear what the guest says;
                                                released
    any        FailureTold, limit passed        Send: a rejection of each attempt that is left; released
    released   anything                         nothing: the address is the guest's, or nobody's

With `by_xenstore`, for guests with the original's TCP stack, an IPv4 SYN is written into Xenstore (layout.py) as it is
kept:

    armed      PacketSeen: such a SYN           kept; WriteEntry
    armed      GuestFrameSeen                   nothing: its stack looks into Xenstore when it is ready to
    armed      ManagedTold                      as GuestFrameSeen, but such SYNs are the guest's; ClearEntries when it
                                                has had CLEAR_AFTER_S to take them
    any        FailureTold, ReadyTold           ClearEntries at once, then as ever

A frame leaves `kept` when it is replayed or rejected, so none reaches the guest twice (G4). While it rises the guest
answers for its addresses itself, and gets what is sent to it from the bridge: nothing new is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from jitsu_protocol.errors import Bug
from jitsu_synjitsu.rules import frames, layout
from jitsu_synjitsu.rules.frames import Kind, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_synjitsu.rules.kept import Kept

ANNOUNCE_FIRST_S, ANNOUNCE_MAX_S = 0.1, 2.0
"""After the first announcement; each pause is twice the one before."""
ASK_S = 0.02
"""How often an armed VM that somebody waits for is asked for."""
SILENT_S, ASK_SILENT_S = 5.0, 1.0
"""When, and how often, one is asked for that nobody waits for."""
RETRY_S = 0.01
RISE_LIMIT_S = 4.0
"""No client waits longer for a name (`max_wait`), so a guest that takes longer to listen gets what there is."""
SETTLE_S = 0.5
CLEAR_AFTER_S = 4.0
UDP_WATCH_S = 0.1
"""A datagram is refused at once or not at all."""
FIRST_PROBE_PORT, PROBE_PORTS = 61_000, 4_000
"""Above those that clients take by themselves (ip(7), ip_local_port_range)."""


class HandoverState(StrEnum):
    """Where a VM's handover stands."""

    WATCHING = "watching"
    ARMED = "armed"
    RISING = "rising"
    RELEASED = "released"


@dataclass(frozen=True)
class ArmTold:
    """vmd is about to start the VM; after `limit` the boot counts as failed."""

    limit: float
    by_xenstore: bool = False


@dataclass(frozen=True)
class WakeRefused:
    """vmd does not start the VM."""


@dataclass(frozen=True)
class ManagedTold:
    """The guest says in Xenstore that it looks after its address itself."""


@dataclass(frozen=True)
class AskedFor:
    """Somebody asks who has an address (ARP request, neighbour solicitation)."""

    asker: Seen


@dataclass(frozen=True)
class PacketSeen:
    """A first packet for the VM: a SYN, a datagram, an echo request."""

    frame: bytes
    seen: Seen


@dataclass(frozen=True)
class GuestFrameSeen:
    """A frame of the guest's own: its stack is there."""

    mac: bytes


@dataclass(frozen=True)
class ProbeAnswered:
    """The guest has answered a probe."""

    reply: Seen


@dataclass(frozen=True)
class UdpRefused:
    """The guest says that nobody listens on a UDP port."""

    reply: Seen


@dataclass(frozen=True)
class ReadyTold:
    """vmd says that the VM is ready."""


@dataclass(frozen=True)
class FailureTold:
    """vmd says that the boot failed."""


Event = (
    ArmTold
    | WakeRefused
    | ManagedTold
    | AskedFor
    | PacketSeen
    | GuestFrameSeen
    | ProbeAnswered
    | UdpRefused
    | ReadyTold
    | FailureTold
)


@dataclass(frozen=True)
class Send:
    """Put a frame on the bridge."""

    frame: bytes
    what: str
    """announcement, answer, question, probe, replay, forward or rejection: what it is counted as."""


@dataclass(frozen=True)
class HandedOver:
    """Tell vmd that the guest is there, and has all that was kept for it."""

    vm: str
    mac: bytes


@dataclass(frozen=True)
class Wake:
    """Ask vmd to summon the VM; answer with WakeRefused if it does not."""

    vm: str


@dataclass(frozen=True)
class WriteEntry:
    """Write a SYN into Xenstore: path -> value."""

    vm: str
    values: dict[str, str]


@dataclass(frozen=True)
class ClearEntries:
    """Remove what was written for a VM, after so many seconds."""

    vm: str
    addresses: tuple[bytes, ...]
    after_s: float


Action = Send | HandedOver | Wake | WriteEntry | ClearEntries


class IllegalEvent(Bug):
    """An event came that the table does not have."""


@dataclass
class _Probe:
    """What waits until the guest listens on one TCP port, and how that is found out."""

    frame: bytes
    seen: Seen
    due: float
    ports: dict[int, int] = field(default_factory=dict)
    """Every port that was probed from, and the sequence number of that probe: only its own answer acknowledges it."""


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
    replayed: int = 0
    by_xenstore: bool = False
    waking: bool = False
    """vmd has been asked to start it."""
    _announce_at: float = 0.0
    _announce_pause: float = ANNOUNCE_FIRST_S
    _ask_at: float = float("inf")
    _askers: dict[bytes, Seen] = field(default_factory=dict)
    """Address -> who asked for it last."""
    _rising_since: float = 0.0
    _probes: dict[tuple[bytes, int], _Probe] = field(default_factory=dict)
    _udp: dict[bytes, list[list[bytes]]] = field(default_factory=dict)
    """Datagrams that were replayed a moment ago, by their addresses and UDP header, each with all of its fragments."""
    _udp_again: list[tuple[float, bytes]] = field(default_factory=list)
    _actions: list[Action] = field(default_factory=list)

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
        if self.state is HandoverState.WATCHING:
            return float("inf")
        if self.state is HandoverState.ARMED:
            return min(self.limit, self._announce_at, self._ask_at)
        due = [probe.due for probe in self._probes.values()] + [due for due, _ in self._udp_again]
        return min([self._rising_since + self._rise_limit(), *due])

    def passed(self, now: float) -> list[Action]:
        """Look at the clock."""
        self._actions = []
        if self.state is HandoverState.ARMED:
            if now >= self.limit:
                self._let_go(FailureTold(), now)
            else:
                self._announce(now)
                self._ask(now)
        elif self.state is HandoverState.RISING:
            self._rise(now)
        return self._actions

    # --- watching ---

    def _arm(self, event: ArmTold, now: float) -> None:
        if self.state is HandoverState.WATCHING:
            self.state, self.by_xenstore = HandoverState.ARMED, event.by_xenstore
            for frame, seen in self.kept.of(self.vm):
                self._write(frame, seen, now)
            self._announce(now)
        self.limit = event.limit

    def _first_packet(self, event: PacketSeen, now: float) -> None:
        self._keep(event, now)
        if not self.waking:
            self.waking = True
            self._actions.append(Wake(self.vm))

    def _not_woken(self, _: WakeRefused, __: float) -> None:
        self.waking = False
        self._reject()

    def _runs_already(self, event: GuestFrameSeen | ReadyTold, now: float) -> None:
        if isinstance(event, GuestFrameSeen) and now < self.since + SETTLE_S:
            return
        if any(True for _ in self.kept.of(self.vm)):
            self._guest_is_there(event, now)
        else:
            self.state = HandoverState.RELEASED

    def _let_go(self, _: FailureTold, __: float) -> None:
        self.state = HandoverState.RELEASED
        self._clear(0.0)
        self._reject()

    # --- armed ---

    def _announce(self, now: float) -> None:
        if now < self._announce_at:
            return
        if not self._announce_at:
            self._ask_at = now + (ASK_S if self._askers else SILENT_S)
        self._announce_at = now + self._announce_pause
        self._announce_pause = min(2 * self._announce_pause, ANNOUNCE_MAX_S)
        for address in self.addresses:
            for frame in frames.announcements(self.mac, address):
                self._send(frame, "announcement")

    def _ask(self, now: float) -> None:
        if now < self._ask_at:
            return
        self._ask_at = now + (ASK_S if self._askers else ASK_SILENT_S)
        nobody = {a: Seen(Kind.ASKS, frames.OUR_MAC, b"", sender=bytes(len(a))) for a in self.addresses}
        for address, asker in (self._askers or nobody).items():
            self._send(frames.question(asker, address), "question")

    def _answer(self, event: AskedFor, now: float) -> None:
        asker = event.asker
        self._send(frames.answer(self.mac, asker.target, asker), "answer")
        if any(asker.sender):  # who only looks whether an address is free has none to be answered at
            self._waits(asker.target, asker, now)

    def _keep(self, event: PacketSeen, now: float) -> None:
        flow, replaces = frames.flow_of(event.seen), event.seen.kind is Kind.TCP
        self.kept.keep(self.vm, flow, (event.frame, event.seen), replaces=replaces)
        if self.state is HandoverState.ARMED:
            self._write(event.frame, event.seen, now)
        self._waits(event.seen.target, event.seen, now)

    def _waits(self, address: bytes, asker: Seen, now: float) -> None:
        self._askers[address] = asker
        self._ask_at = min(self._ask_at, now + ASK_S)

    def _write(self, frame: bytes, seen: Seen, now: float) -> None:
        if self._is_written(seen):
            self._actions.append(WriteEntry(self.vm, layout.entry(frame, seen, int(now * 250_000) % 2**32)))

    def _is_written(self, seen: Seen) -> bool:
        return self.by_xenstore and seen.kind is Kind.TCP and len(seen.target) == 4

    # --- handing over ---

    def _first_frame(self, event: GuestFrameSeen, now: float) -> None:
        self.mac = event.mac
        if not self.by_xenstore:
            self._guest_is_there(event, now)

    def _managed(self, event: ManagedTold, now: float) -> None:
        if self.by_xenstore:
            self.kept.take_if(self.vm, lambda item: self._is_written(item[1]))
            self._clear(CLEAR_AFTER_S)
            self._guest_is_there(event, now)

    def _clear(self, after_s: float) -> None:
        if self.by_xenstore:
            self.by_xenstore = False
            self._actions.append(ClearEntries(self.vm, self.addresses, after_s))

    def _ready(self, event: ReadyTold, now: float) -> None:
        self._clear(0.0)
        self._guest_is_there(event, now)

    def _guest_is_there(self, event: GuestFrameSeen | ReadyTold | ManagedTold, now: float) -> None:
        if isinstance(event, GuestFrameSeen):
            self.mac = event.mac
        self.state, self._rising_since = HandoverState.RISING, now
        datagrams = [item for _, item in self.kept.take_if(self.vm, lambda item: item[1].kind is not Kind.TCP)]
        fragments = [(frame, seen) for frame, seen in datagrams if seen.fragment]
        for frame, seen in datagrams:
            self._replay(frame, seen)
            if seen.kind is Kind.UDP:
                whole = frames.replayed(frame, seen, self.mac)
                header = whole[seen.payload_at : seen.payload_at + frames.UDP_HEADER_BYTES]
                parts = [frames.replayed(*part, self.mac) for part in fragments if _same_datagram(part[1], seen)]
                self._udp.setdefault(seen.target + seen.sender + header, []).append(parts or [whole])
        for frame, seen in self.kept.of(self.vm):
            self._probes.setdefault((seen.target, seen.target_port), _Probe(frame, seen, now))
        self._rise(now)

    def _rise(self, now: float) -> None:
        """Probe what is due; end it when nothing is left, or there is no more time."""
        if now >= self._rising_since + self._rise_limit():
            self._finish()
            return
        for probe in self._probes.values():
            if now >= probe.due:
                probe.due, port = now + RETRY_S, self._free_port()
                sequence = int(now * 250_000) % 2**32  # RFC 9293, 3.4.1: grows every 4 microseconds
                probe.ports[port] = sequence
                self._send(frames.probe(probe.frame, probe.seen, self.mac, port, sequence), "probe")
        again, self._udp_again = self._udp_again, []
        for due, frame in again:
            if now >= due:
                self._send(frame, "replay")
            else:
                self._udp_again.append((due, frame))

    def _probed(self, event: ProbeAnswered, now: float) -> None:
        reply = event.reply
        probe = self._probes.get((reply.sender, reply.source_port))
        if probe is None or reply.target != probe.seen.sender or not reply.flags & (frames.SYN | frames.RST):
            return
        sequence = probe.ports.get(reply.target_port)
        if sequence is None or reply.ack != (sequence + 1) % 2**32:
            return  # it answers a connection of the client's own
        if reply.flags & frames.RST:
            if reply.target_port == next(reversed(probe.ports)):
                probe.due = now + RETRY_S
            return
        del self._probes[reply.sender, reply.source_port]
        self._send(frames.reset_of_probe(probe.frame, probe.seen, self.mac, reply), "probe")
        for _, (frame, seen) in self.kept.take_if(self.vm, lambda item: _same_port(item[1], probe.seen)):
            self._replay(frame, seen)
        if not self._probes and not self._udp:
            self._finish()

    def _free_port(self) -> int:
        """Return a port to probe from that no kept connection attempt uses."""
        used = {seen.source_port for _, seen in self.kept.of(self.vm)}
        return next(port for port in iter(self.probe_port, 0) if port not in used)

    def _udp_refused(self, event: UdpRefused, now: float) -> None:
        reply = event.reply
        if refused := self._udp.get(reply.sender + reply.target + reply.quoted):
            self._udp_again += [(now + RETRY_S, frame) for frame in refused[0]]
            refused.append(refused.pop(0))  # of two that are the same, the other is refused next

    def _rise_limit(self) -> float:
        return RISE_LIMIT_S if self._probes or self._udp_again else UDP_WATCH_S if self._udp else 0.0

    def _finish(self) -> None:
        self.state = HandoverState.RELEASED
        for _, (frame, seen) in self.kept.take(self.vm):
            self._replay(frame, seen)
        self._actions.append(HandedOver(self.vm, self.mac))

    def _reject(self) -> None:
        for _flow, (frame, seen) in self.kept.take(self.vm):
            rejection = frames.rejection(frame, seen, self.mac)
            if rejection is not None:
                self._send(rejection, "rejection")

    # --- common ---

    def _replay(self, frame: bytes, seen: Seen) -> None:
        self.replayed += 1
        self._send(frames.replayed(frame, seen, self.mac), "replay")

    def _send(self, frame: bytes, what: str) -> None:
        self._actions.append(Send(frame, what))

    def _ignore(self, _: Event, __: float) -> None:
        """Nothing follows."""


def _same_port(one: Seen, other: Seen) -> bool:
    return one.kind is other.kind and one.target == other.target and one.target_port == other.target_port


def _same_datagram(one: Seen, other: Seen) -> bool:
    """Say whether two frames are fragments of one datagram."""
    ours, theirs = (one.fragment, one.sender, one.target), (other.fragment, other.sender, other.target)
    return one.fragment != b"" and ours == theirs


_H = Handover

TRANSITIONS: dict[HandoverState, dict[type[Any], Callable[[Handover, Any, float], None]]] = {
    HandoverState.WATCHING: {
        ArmTold: _H._arm,
        WakeRefused: _H._not_woken,
        AskedFor: _H._answer,
        ManagedTold: _H._ignore,
        PacketSeen: _H._first_packet,
        GuestFrameSeen: _H._runs_already,
        ProbeAnswered: _H._ignore,
        UdpRefused: _H._ignore,
        ReadyTold: _H._runs_already,
        FailureTold: _H._let_go,
    },
    HandoverState.ARMED: {
        ArmTold: _H._arm,
        WakeRefused: _H._ignore,
        AskedFor: _H._answer,
        PacketSeen: _H._keep,
        ManagedTold: _H._managed,
        GuestFrameSeen: _H._first_frame,
        ProbeAnswered: _H._ignore,
        UdpRefused: _H._ignore,
        ReadyTold: _H._ready,
        FailureTold: _H._let_go,
    },
    HandoverState.RISING: {
        ArmTold: _H._ignore,
        WakeRefused: _H._ignore,
        ManagedTold: _H._ignore,
        AskedFor: _H._ignore,
        PacketSeen: _H._ignore,
        GuestFrameSeen: _H._ignore,
        ProbeAnswered: _H._probed,
        UdpRefused: _H._udp_refused,
        ReadyTold: _H._ignore,
        FailureTold: _H._let_go,
    },
    HandoverState.RELEASED: dict.fromkeys(
        (
            ArmTold,
            WakeRefused,
            ManagedTold,
            AskedFor,
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
