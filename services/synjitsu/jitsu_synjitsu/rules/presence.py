"""One address of a VM that boots: from nobody there, over the guest being there, to everything being its own.

A guest shows itself at an address when a frame of its own has that address as its sender: an announcement, an answer to
a question, an ARP request, any IP packet. An ARP probe (RFC 5227) and duplicate address detection (RFC 4862) are
questions whether the address is free, and show nothing yet; nor do frames without an address, such as MLD reports.

Until then Synjitsu answers for the address and keeps what comes for it (handover.py). From then on the guest gets what
was kept, as soon as a probe (probes.py) has shown that it reaches the client, and for a SYN that the port listens. A
guest that answers no probe, as one without TCP does, gets its datagrams UNPROVEN_S after it has shown itself.

    state     event          then             what happens
    absent    Appeared       present, handed  a probe for each TCP port and client of a kept packet; handed at once if
                                              nothing was kept
    absent    GuestReplied, ProbeAnswered, UdpRefused, Tick  absent  nothing
    present   GuestReplied   present          what the guest answers without having been sent it has been delivered by
                                              the bridge, and is dropped
    present   ProbeAnswered  present, handed  SYN+ACK: that port listens, and the guest reaches that client; RST: the
                                              guest reaches that client, and the port is probed again. Then what may be
                                              sent now, as with Tick
    present   UdpRefused     present          the same datagram again, a little later (udp_replay.py)
    present   SynPassed      present, handed  the SYN waits for an answer to a probe that follows it
    present   Tick           present, handed  the kept SYNs of clients that the guest reaches, to ports that listen;
                                              datagrams and echo requests of such clients, or of all UNPROVEN_S after
                                              the guest has shown itself; probes that are due. RISE_LIMIT_S after that,
                                              everything that is left: the clients should hear what the guest says.
                                              Handed when nothing is left
    handed    SynPassed      present, handed  the SYN waits for an answer to a probe that follows it
    handed    GuestReplied, ProbeAnswered, UdpRefused, Tick  handed  nothing: everything is the guest's

SynPassed is a SYN that came when the guest had just shown itself (handover.py, PASSING_S), and that the bridge may have
delivered or not. A guest answers in the order in which it is sent something, and the bridge delivers a packet before
Synjitsu sees it. So if a SYN has reached the guest without Synjitsu, the guest's answer to it is read before its answer
to any probe that was sent later. Therefore such a SYN is replayed only after the answer to a probe that followed it,
however late Synjitsu reads what the bridge has delivered long ago. If nothing is proven in PASSING_LIMIT_S, the SYN is
dropped, because by then the client has sent it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.events import (
    Appeared,
    GuestReplied,
    ProbeAnswered,
    SendFrame,
    SynPassed,
    UdpRefused,
)
from jitsu_synjitsu.rules.frames import Kind, Seen
from jitsu_synjitsu.rules.udp_replay import UdpReplay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_synjitsu.rules.kept import Item
    from jitsu_synjitsu.rules.probes import Probes

    AddressEvent = Appeared | GuestReplied | ProbeAnswered | UdpRefused | SynPassed

RISE_LIMIT_S = 4.0
"""No client waits longer for a name (`max_wait`), so a guest that takes longer to listen gets what there is."""
UNPROVEN_S = 0.1
"""A guest that drops probes has its routes by then, as one that configures itself does so at once."""
PASSING_LIMIT_S = 1.0
"""Linux sends a SYN again after 1 s (RFC 6298, 2.1)."""


class AddressState(StrEnum):
    """Where the handover of one address stands."""

    ABSENT = "absent"
    PRESENT = "present"
    HANDED = "handed"


def shows_presence(seen: Seen) -> bool:
    """Say whether a frame of the guest shows that it has the address `seen.sender`."""
    return any(seen.sender) and (seen.kind in (Kind.ASKS, Kind.TELLS) or seen.at > 0)


@dataclass
class AddressHandover:
    """One address."""

    address: bytes
    probes: Probes
    state: AddressState = AddressState.ABSENT
    mac: bytes = b""
    """The guest's."""
    replayed: int = 0
    since: float = float("-inf")
    """When the guest showed itself."""
    _syns: list[Item] = field(default_factory=list, init=False)
    _passing: list[Item] = field(default_factory=list, init=False)
    """SYNs that came when the guest was there already, and that the bridge may not have delivered."""
    _others: list[Item] = field(default_factory=list, init=False)
    """Echo requests, and fragments of which the first is missing."""
    _udp: UdpReplay = field(default_factory=UdpReplay, init=False)
    _actions: list[SendFrame] = field(default_factory=list, init=False)

    def handle(self, event: AddressEvent, now: float) -> Sequence[SendFrame]:
        """Return what is to be sent because of an event."""
        return self._step(event, now)

    def tick(self, now: float) -> Sequence[SendFrame]:
        """Return what is due."""
        return self._step(Tick(), now)

    def _step(self, event: AddressEvent | Tick, now: float) -> Sequence[SendFrame]:
        self._actions = []
        step(TRANSITIONS, self, event, now)
        return self._actions

    def deadline(self) -> float | None:
        """Return when to call `tick`."""
        if self.state is not AddressState.PRESENT:
            return None
        due = [self.since + RISE_LIMIT_S]
        if self._passing:
            due.append(self._passing[0].at + PASSING_LIMIT_S)
        if (probes_at := self.probes.deadline()) is not None:
            due.append(probes_at)
        unproven_until = self.since + UNPROVEN_S
        if self._others or any(self.probes.listens(item.seen.target_port) for item in self._syns):
            due.append(unproven_until)
        due.append(self._udp.deadline(self.probes.reached(), unproven_until))
        return min(due)

    def take_left(self) -> list[Item]:
        """Take out what the guest has not been sent, or has refused."""
        left = [*self._syns, *self._others, *self._udp.take_left()]
        self._syns, self._others = [], []
        return left

    # --- events ---

    def appeared(self, event: Appeared, now: float) -> None:
        """Begin to send what was kept."""
        self.state, self.mac, self.since = AddressState.PRESENT, event.mac, now
        fragments: dict[tuple[bytes, bytes], list[Item]] = {}
        for item in event.items:
            if item.seen.kind is Kind.TCP:
                self._syns.append(item)
            elif item.seen.fragment:
                fragments.setdefault((item.seen.sender, item.seen.fragment), []).append(item)
            elif not self._udp.add([item]):
                self._others.append(item)
            self.probes.add(item, for_syn=item.seen.kind is Kind.TCP)
        for parts in fragments.values():
            if not self._udp.add(parts):
                self._others += parts
        self.look(event, now)

    def passed(self, event: SynPassed, now: float) -> None:
        """Have a probe follow a SYN that the bridge may have delivered."""
        self.state = AddressState.PRESENT
        self._passing.append(event.item)
        self.probes.follow(event.item, now)
        self.look(event, now)

    def replied(self, event: GuestReplied, _: float) -> None:
        """Drop what the guest answers without having been sent it."""
        reply = event.reply
        if reply.kind is Kind.TCP:
            self._syns = [item for item in self._syns if not answers(reply, item.seen)]
            self._passing = [item for item in self._passing if not answers(reply, item.seen)]
        elif reply.kind is Kind.UDP:
            self._udp.answered(reply, answers)

    def probe_answered(self, event: ProbeAnswered, now: float) -> None:
        """Look at a TCP segment of the guest, which may answer a probe."""
        probe = self.probes.answered(event.reply, self._passing, now)
        if probe is None:
            return
        if not event.reply.flags & frames.RST:
            reset = frames.reset_of_probe(probe.item.frame, probe.item.seen, self.mac, event.reply)
            self._actions.append(SendFrame(reset, "probe"))
        self.look(event, now)

    def udp_refused(self, event: UdpRefused, now: float) -> None:
        """Have a datagram sent again."""
        self._udp.refused(event.reply, self.mac, now)

    def look(self, _: object, now: float) -> None:
        """Send what may be sent now."""
        if now >= self.since + RISE_LIMIT_S:
            for item in self.take_left():
                self._replay(item)
        else:
            self._replay_reached(now)
            waiting = [*self._syns, *self._passing]
            is_unproven = now < self.since + UNPROVEN_S
            for frame in self.probes.send(now, self.mac, waiting, is_unproven=is_unproven):
                self._actions.append(SendFrame(frame, "probe"))
        if not self._syns and not self._passing and not self._others and not self._udp:
            self.state = AddressState.HANDED

    def ignore(self, _: object, __: float) -> None:
        """Do nothing."""

    def _replay_reached(self, now: float) -> None:
        def may_send(client: bytes) -> bool:
            return self.probes.reaches(client) or now >= self.since + UNPROVEN_S

        def is_ready(item: Item) -> bool:
            return self.probes.listens(item.seen.target_port) and may_send(item.seen.sender)

        def is_proven(item: Item) -> bool:
            return self.probes.listens(item.seen.target_port) and self.probes.has_followed(item)

        self._syns = self._replay_if(self._syns, is_ready)
        self._passing = self._replay_if(self._passing, is_proven)
        self._passing = [item for item in self._passing if now < item.at + PASSING_LIMIT_S]
        self._others = self._replay_if(self._others, lambda item: may_send(item.seen.sender))
        for item in self._udp.replay(may_send, now):
            self._replay(item)

    def _replay_if(self, items: list[Item], may_go: Callable[[Item], bool]) -> list[Item]:
        """Replay those that may go, and return the others."""
        waiting = []
        for item in items:
            if may_go(item):
                self._replay(item)
            else:
                waiting.append(item)
        return waiting

    def _replay(self, item: Item) -> None:
        self.replayed += 1
        self._actions.append(SendFrame(frames.replayed(item.frame, item.seen, self.mac), "replay"))


def answers(reply: Seen, kept: Seen) -> bool:
    """Say whether a packet of the guest belongs to the flow of a kept one, and is what a guest says to that."""
    if reply.kind is not kept.kind or (reply.kind is Kind.TCP and not reply.flags & (frames.SYN | frames.RST)):
        return False
    ours = (kept.target, kept.target_port, kept.sender, kept.source_port)
    return ours == (reply.sender, reply.source_port, reply.target, reply.target_port)


_A = AddressHandover
_ABSENT, _HANDED = frozenset({AddressState.ABSENT}), frozenset({AddressState.HANDED})
_PRESENT = frozenset({AddressState.PRESENT})
_THERE = _PRESENT | _HANDED

TRANSITIONS: dict[tuple[AddressState, type], Transition[AddressHandover]] = {
    (AddressState.ABSENT, Appeared): Transition(_A.appeared, _THERE),
    (AddressState.PRESENT, GuestReplied): Transition(_A.replied, _PRESENT),
    (AddressState.PRESENT, ProbeAnswered): Transition(_A.probe_answered, _THERE),
    (AddressState.PRESENT, UdpRefused): Transition(_A.udp_refused, _PRESENT),
    (AddressState.PRESENT, SynPassed): Transition(_A.passed, _THERE),
    (AddressState.PRESENT, Tick): Transition(_A.look, _THERE),
    (AddressState.HANDED, SynPassed): Transition(_A.passed, _THERE),
}
for _event in (GuestReplied, ProbeAnswered, UdpRefused, Tick):
    TRANSITIONS[AddressState.ABSENT, _event] = Transition(_A.ignore, _ABSENT)
    TRANSITIONS[AddressState.HANDED, _event] = Transition(_A.ignore, _HANDED)
