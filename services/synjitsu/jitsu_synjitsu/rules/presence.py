"""One address of a VM that boots: from nobody there, over the guest being there, to everything being its own.

    state     event                                    then
    absent    asked for, by another than the guest     Synjitsu answers (handover.py)
    absent    a packet for it                          kept (handover.py)
    absent    the guest answers a kept packet itself   that packet is dropped: it has reached the guest
    absent    the guest shows itself at this address   present; a probe for each TCP port and client of a kept packet
    present   SYN+ACK to a probe                       that port listens, and the guest reaches that client; a reset of
                                                       the probe
    present   RST to a probe                           the guest reaches that client; a SYN to this port is probed for
                                                       again in RETRY_S: the link is up before the service listens
    present   no answer to a probe in RETRY_S          probed again, then after twice that, and so on
    present   the port listens and the guest reaches   the kept SYNs of that client to that port, oldest first
              the client
    present   the guest reaches the client, or         its datagrams and echo requests, oldest first. Of several for one
              UNPROVEN_S passed                        UDP port only the first, until the guest has answered or has not
                                                       refused it for TRIAL_S: of many refusals Linux reports six
    present   the guest refuses a datagram             the same datagram again in RETRY_S, then in twice that, and so on
    present   nothing is left                          handed
    present, handed  a SYN comes that may have missed  present; a probe at once, unless one is under way
              the guest (handover.py, PASSING_S)
    present   the guest answers such a SYN itself      dropped: the bridge has delivered it
    present   SYN+ACK to a probe that was sent after   that SYN, if the guest has not answered it yet
              such a SYN had come
    present   PASSING_LIMIT_S passed since it came     dropped: the client sends it again
    present   RISE_LIMIT_S passed                      all that is left, as the clients should hear what the guest says;
                                                       handed
    handed    anything                                 nothing: it is the guest's

The guest shows itself at an address when a frame of its own has that address as its sender: an announcement, an answer
to a question, an ARP request, any IP packet. An ARP probe (RFC 5227) and duplicate address detection (RFC 4862) are
questions whether the address is free, and show nothing yet; nor do frames without an address, such as MLD reports.

Probes must not pile up in the queue of a slow guest, as it would then answer them before the client's own packets.
Therefore one that is not answered is repeated after ever longer pauses, and one that is refused no sooner than the
refusal took to come.

A guest answers in the order in which it is sent something, and the bridge delivers a packet before Synjitsu sees it. So
if a SYN has reached the guest without Synjitsu, the guest's answer to it is read before its answer to any probe that
was sent later. Therefore a SYN is replayed only after the answer to a probe that followed it, however late Synjitsu
reads what the bridge has delivered long ago.

A probe is a TCP SYN in the name of the client of a kept packet, and its answer travels to that client, so SYN+ACK and
RST alike prove that both directions work. If the client has sent no SYN, the TCP port with the number of its datagram's
port is probed (ECHO_PROBE_PORT for an echo request); a guest that drops that, as one without TCP does, gets the
datagram UNPROVEN_S after it has shown itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from jitsu_synjitsu.rules.kept import Item

RETRY_S = 0.01
MAX_PROBE_PAUSE_S = 0.32
"""A guest that drops probes until it is ready is not found much later than it could be."""
MAX_RETRY_S = 1.0
"""Linux reports one refusal a second to each client after the first six (icmp(7), icmp_ratelimit)."""
RISE_LIMIT_S = 4.0
"""No client waits longer for a name (`max_wait`), so a guest that takes longer to listen gets what there is."""
UNPROVEN_S = 0.1
"""A guest that drops probes has its routes by then, as one that configures itself does so at once."""
UDP_WATCH_S = 0.1
"""A datagram is refused at once or not at all."""
TRIAL_S = 0.02
PASSING_LIMIT_S = 1.0
"""Linux sends a SYN again after 1 s (RFC 6298, 2.1)."""
MAX_PROBES = 64
"""Sent at once, so that packets of many clients that do not exist cannot make a flood of probes."""
FIRST_PROBE_PORT, PROBE_PORTS = 61_000, 4_000
"""Above those that clients take by themselves (ip(7), ip_local_port_range)."""
ECHO_PROBE_PORT = 7


class AddressState(StrEnum):
    """Where the handover of one address stands."""

    ABSENT = "absent"
    PRESENT = "present"
    HANDED = "handed"


def shows_presence(seen: Seen) -> bool:
    """Say whether a frame of the guest shows that it has the address `seen.sender`."""
    return any(seen.sender) and (seen.kind in (Kind.ASKS, Kind.TELLS) or seen.at > 0)


@dataclass
class _Probe:
    """Finds out whether the guest listens on one TCP port, and whether it reaches one client."""

    item: Item
    """A kept packet of that client."""
    port: int
    for_syn: bool
    """Else it is for datagrams or echo requests, and only whether the guest reaches the client matters."""
    due: float = 0.0
    """When it is sent, or sent again."""
    pause_s: float = RETRY_S
    """From then to the time after that, unless it is answered."""
    is_under_way: bool = False
    """It was sent, and not answered yet."""


@dataclass
class _Datagram:
    """A UDP datagram, whole or in fragments."""

    parts: list[Item]
    due: float = 0.0
    """Not sent before."""
    sent_at: float | None = None
    """None: not sent, or refused."""
    retry_s: float = RETRY_S

    @property
    def first(self) -> Item:
        """Return the part that has the ports."""
        return next(part for part in self.parts if part.seen.kind is Kind.UDP)


@dataclass
class _UdpPort:
    """The datagrams for one UDP port of the guest, oldest first."""

    datagrams: list[_Datagram] = field(default_factory=list)
    is_open: bool = False
    """The guest has answered from it, or has not refused the first datagram."""

    def next_deadline(self, reached: Collection[bytes], unproven_until: float) -> float:
        """Return when one of them is to be looked at."""
        due = float("inf")
        for datagram in self.datagrams if self.is_open else self.datagrams[:1]:
            if datagram.sent_at is not None:
                due = min(due, datagram.sent_at + (UDP_WATCH_S if self.is_open else TRIAL_S))
            else:
                due = min(due, datagram.due if datagram.first.seen.sender in reached else unproven_until)
        return due


@dataclass
class AddressHandover:
    """One address."""

    address: bytes
    probe_port: Callable[[], int]
    """Gives another port each time."""
    state: AddressState = AddressState.ABSENT
    mac: bytes = b""
    """The guest's."""
    replayed: int = 0
    since: float = float("-inf")
    """When the guest showed itself."""
    _syns: list[Item] = field(default_factory=list)
    _passing: list[Item] = field(default_factory=list)
    """SYNs that came when the guest was there already, and that the bridge may not have delivered."""
    _others: list[Item] = field(default_factory=list)
    """Echo requests, and fragments of which the first is missing."""
    _udp: dict[int, _UdpPort] = field(default_factory=dict)
    _probes: dict[tuple[bytes, int], _Probe] = field(default_factory=dict)
    """By client and TCP port; the one that has waited longest is the first."""
    _probe_at: float = 0.0
    _asked: dict[tuple[bytes, int], tuple[int, _Probe, float]] = field(default_factory=dict)
    """Client, and port that was probed from -> sequence number (only its own answer acknowledges that), probe, time."""
    _kept_ports: set[int] = field(default_factory=set)
    """No probe comes from these."""
    _reached: dict[bytes, float] = field(default_factory=dict)
    """Clients that the guest reaches -> when the latest probe was sent that shows it."""
    _listening: set[int] = field(default_factory=set)
    _sends: list[tuple[bytes, str]] = field(default_factory=list)

    def appear(self, mac: bytes, items: Sequence[Item], now: float) -> list[tuple[bytes, str]]:
        """Note that the guest is there; `items` is what was kept. Returns frames, and what each is counted as."""
        self.state, self.mac, self.since = AddressState.PRESENT, mac, now
        fragments: dict[tuple[bytes, bytes], list[Item]] = {}
        for item in items:
            seen = item.seen
            self._kept_ports.add(seen.source_port)
            if seen.kind is Kind.TCP:
                self._syns.append(item)
            elif seen.fragment:
                fragments.setdefault((seen.sender, seen.fragment), []).append(item)
            elif seen.kind is Kind.UDP:
                self._udp.setdefault(seen.target_port, _UdpPort()).datagrams.append(_Datagram([item]))
            else:
                self._others.append(item)
            port = seen.target_port or ECHO_PROBE_PORT
            probe = self._probes.setdefault((seen.sender, port), _Probe(item, port, for_syn=False))
            probe.for_syn |= seen.kind is Kind.TCP
        for parts in fragments.values():
            ports = [part.seen.target_port for part in parts if part.seen.kind is Kind.UDP]
            if ports:
                self._udp.setdefault(ports[0], _UdpPort()).datagrams.append(_Datagram(parts))
            else:
                self._others += parts
        return self.tick(now)

    def add_passing(self, item: Item, now: float) -> list[tuple[bytes, str]]:
        """Keep a SYN that came when the guest had just shown itself: the bridge may not have delivered it.

        If the bridge has delivered it, the guest's answer may still be on its way. So a probe follows the SYN: the
        answer to that probe comes after the guest's answer to the SYN.
        """
        self.state = AddressState.PRESENT
        self._kept_ports.add(item.seen.source_port)
        self._passing.append(item)
        key = item.seen.sender, item.seen.target_port
        probe = self._probes.get(key)
        if probe is None or not probe.is_under_way or now >= probe.due:
            probe = self._probes[key] = _Probe(item, item.seen.target_port, for_syn=True, due=now)
        probe.for_syn = True
        self._probe_at = min(self._probe_at, probe.due)
        return self.tick(now)

    def tick(self, now: float) -> list[tuple[bytes, str]]:
        """Look at the clock. Returns frames, and what each is counted as."""
        if self.state is AddressState.PRESENT:
            if now >= self.since + RISE_LIMIT_S:
                for item in self.take_left():
                    self._replay(item)
            else:
                self._replay_reached(now)
                for port in self._udp.values():
                    self._replay_udp(port, now)
                self._send_probes(now)
            if not self._is_anything_left():
                self.state = AddressState.HANDED
        sends, self._sends = self._sends, []
        return sends

    def _is_anything_left(self) -> bool:
        held = self._syns or self._passing or self._others
        return bool(held) or any(port.datagrams for port in self._udp.values())

    def deadline(self) -> float:
        """Return when to call `tick`."""
        if self.state is not AddressState.PRESENT:
            return float("inf")
        due = [self.since + RISE_LIMIT_S]
        if self._passing:
            due.append(self._passing[0].at + PASSING_LIMIT_S)
        if self._probes:
            due.append(self._probe_at)
        unproven_until = self.since + UNPROVEN_S
        if self._others or any(item.seen.target_port in self._listening for item in self._syns):
            due.append(unproven_until)
        due += [port.next_deadline(self._reached, unproven_until) for port in self._udp.values()]
        return min(due)

    def take_left(self) -> list[Item]:
        """Take out what the guest has not been sent, or has refused."""
        datagrams = [each for port in self._udp.values() for each in port.datagrams if each.sent_at is None]
        left = [*self._syns, *self._others, *(part for datagram in datagrams for part in datagram.parts)]
        self._syns, self._others, self._udp = [], [], {}
        return left

    # --- what the guest sends ---

    def probe_answered(self, reply: Seen, now: float) -> list[tuple[bytes, str]]:
        """Look at a TCP segment of the guest."""
        sequence, probe, asked_at = self._asked.get((reply.target, reply.target_port), (0, None, now))
        if self.state is not AddressState.PRESENT or probe is None or not reply.flags & (frames.SYN | frames.RST):
            return []
        if reply.source_port != probe.port or reply.ack != (sequence + 1) % 2**32:
            return []  # it answers a connection of the client's own
        self._reached[reply.target] = max(asked_at, self._reached.get(reply.target, asked_at))
        probe.pause_s = min(max(RETRY_S, now - asked_at), MAX_PROBE_PAUSE_S)
        probe.is_under_way = False
        is_overtaken = any(_key(item) == _key(probe.item) and item.at > asked_at for item in self._passing)
        probe.due = now if is_overtaken else now + probe.pause_s
        self._probe_at = min(self._probe_at, probe.due)
        if not reply.flags & frames.RST:
            self._listening.add(probe.port)
            reset = frames.reset_of_probe(probe.item.frame, probe.item.seen, self.mac, reply)
            self._sends.append((reset, "probe"))
        return self.tick(now)

    def answered(self, reply: Seen) -> None:
        """Look at any packet of the guest: what it answers without having been sent it, the bridge has brought it."""
        if reply.kind is Kind.TCP:
            self._syns = [item for item in self._syns if not answers(reply, item.seen)]
            self._passing = [item for item in self._passing if not answers(reply, item.seen)]
        elif reply.kind is Kind.UDP and (port := self._udp.get(reply.source_port)) is not None:
            port.is_open = True
            flow = [each for each in port.datagrams if answers(reply, each.first.seen)]
            if all(each.sent_at is None for each in flow):
                port.datagrams = [each for each in port.datagrams if each not in flow]

    def refused(self, reply: Seen, now: float) -> None:
        """Send a datagram again that the guest has refused."""
        port = self._udp.get(reply.source_port, _UdpPort())
        for datagram in port.datagrams:
            if datagram.sent_at is not None and self._header(datagram) == (reply.target, reply.quoted):
                datagram.sent_at, datagram.due = None, now + datagram.retry_s
                datagram.retry_s = min(2 * datagram.retry_s, MAX_RETRY_S)
                return

    def _header(self, datagram: _Datagram) -> tuple[bytes, bytes]:
        """Return the client, and the UDP header that the guest has got."""
        first = datagram.first
        at = first.seen.payload_at
        sent = frames.replayed(first.frame, first.seen, self.mac)
        return first.seen.sender, sent[at : at + frames.UDP_HEADER_BYTES]

    # --- what the guest is sent ---

    def _may_send(self, client: bytes, now: float) -> bool:
        return client in self._reached or now >= self.since + UNPROVEN_S

    def _replay_reached(self, now: float) -> None:
        waiting = []
        for item in self._syns:
            if item.seen.target_port in self._listening and self._may_send(item.seen.sender, now):
                self._replay(item)
            else:
                waiting.append(item)
        self._syns, waiting = waiting, []
        for item in self._passing:
            proven_at = self._reached.get(item.seen.sender, float("-inf"))
            if item.seen.target_port in self._listening and proven_at >= item.at:
                self._replay(item)
            elif now < item.at + PASSING_LIMIT_S:
                waiting.append(item)
        self._passing, waiting = waiting, []
        for item in self._others:
            if self._may_send(item.seen.sender, now):
                self._replay(item)
            else:
                waiting.append(item)
        self._others = waiting

    def _replay_udp(self, port: _UdpPort, now: float) -> None:
        waiting = []
        for n, datagram in enumerate(port.datagrams):
            if datagram.sent_at is None:
                if (
                    (n and not port.is_open)
                    or now < datagram.due
                    or not self._may_send(datagram.first.seen.sender, now)
                ):
                    waiting.append(datagram)
                    continue
                datagram.sent_at = now
                for part in datagram.parts:
                    self._replay(part)
            if now >= datagram.sent_at + TRIAL_S:
                port.is_open = True
            if now < datagram.sent_at + UDP_WATCH_S:
                waiting.append(datagram)
        port.datagrams = waiting

    def _send_probes(self, now: float) -> None:
        if now < self._probe_at or not self._probes:
            return
        syns = {_key(item) for item in (*self._syns, *self._passing)}
        is_unproven = now < self.since + UNPROVEN_S
        self._probes = {
            key: probe
            for key, probe in self._probes.items()
            if (key in syns if probe.for_syn else is_unproven and key[0] not in self._reached)
        }
        due = [key for key, probe in self._probes.items() if probe.due <= now]
        for key in due[:MAX_PROBES]:
            probe = self._probes[key] = self._probes.pop(key)
            probe.due, probe.pause_s = now + probe.pause_s, min(2 * probe.pause_s, MAX_PROBE_PAUSE_S)
            probe.is_under_way = True
            port = next((port for port in self._probe_ports() if port not in self._kept_ports), None)
            if port is None:
                continue  # kept packets use all of them; the probe is due again
            sequence = int(now * 250_000) % 2**32  # RFC 9293, 3.4.1: grows every 4 microseconds
            self._asked[key[0], port] = sequence, probe, now
            seen = probe.item.seen
            self._sends.append((frames.probe(probe.item.frame, seen, self.mac, port, probe.port, sequence), "probe"))
        self._probe_at = max(now + RETRY_S, min((probe.due for probe in self._probes.values()), default=now))

    def _probe_ports(self) -> Iterator[int]:
        """Yield ports to probe from, as many as may be in the way and one more."""
        return (self.probe_port() for _ in range(min(len(self._kept_ports) + 1, PROBE_PORTS)))

    def _replay(self, item: Item) -> None:
        self.replayed += 1
        self._sends.append((frames.replayed(item.frame, item.seen, self.mac), "replay"))


def _key(item: Item) -> tuple[bytes, int]:
    return item.seen.sender, item.seen.target_port


def answers(reply: Seen, kept: Seen) -> bool:
    """Say whether a packet of the guest belongs to the flow of a kept one, and is what a guest says to that."""
    if reply.kind is not kept.kind or (reply.kind is Kind.TCP and not reply.flags & (frames.SYN | frames.RST)):
        return False
    ours = (kept.target, kept.target_port, kept.sender, kept.source_port)
    return ours == (reply.sender, reply.source_port, reply.target, reply.target_port)
