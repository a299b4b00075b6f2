"""Probes find out whether a guest listens on a TCP port, and whether it reaches a client.

A probe is a TCP SYN in the name of the client of a kept packet, so its answer travels to that client. SYN+ACK and RST
alike therefore prove that both directions work; SYN+ACK shows as well that the port listens, and is answered with a
reset. If the client has sent no SYN, the TCP port with the number of its datagram's port is probed (ECHO_PROBE_PORT
for an echo request).

Probes must not pile up in the queue of a slow guest, as it would then answer them before the client's own packets.
Therefore one that is not answered is repeated after ever longer pauses, and one that is refused no sooner than the
refusal took to come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.kept import Item

RETRY_S = 0.01
MAX_PROBE_PAUSE_S = 0.32
"""A guest that drops probes until it is ready is not found much later than it could be."""
MAX_PROBES = 64
"""Sent at once, so that packets of many clients that do not exist cannot make a flood of probes."""
FIRST_PROBE_PORT, PROBE_PORTS = 61_000, 4_000
"""Above those that clients take by themselves (ip(7), ip_local_port_range)."""
ECHO_PROBE_PORT = 7

Target = tuple[bytes, int]
"""A client, and a TCP port of the guest."""


@dataclass
class _Probe:
    """For one client and one TCP port."""

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
class Probes:
    """The probes of one address, and what they have shown."""

    probe_port: Callable[[], int]
    """Gives another port each time."""
    _probes: dict[Target, _Probe] = field(default_factory=dict, init=False)
    """The one that has waited longest is the first."""
    _next_at: float = field(default=0.0, init=False)
    _asked: dict[Target, tuple[int, _Probe, float]] = field(default_factory=dict, init=False)
    """Client, and port that was probed from -> sequence number (only its own answer acknowledges that), probe, time."""
    _kept_ports: set[int] = field(default_factory=set, init=False)
    """No probe comes from these."""
    _reached: dict[bytes, float] = field(default_factory=dict, init=False)
    """Clients that the guest reaches -> when the latest probe was sent that shows it."""
    _listening: set[int] = field(default_factory=set, init=False)

    def add(self, item: Item, *, for_syn: bool) -> None:
        """Probe for a packet that was kept."""
        self._kept_ports.add(item.seen.source_port)
        port = item.seen.target_port or ECHO_PROBE_PORT
        probe = self._probes.setdefault((item.seen.sender, port), _Probe(item, port, for_syn=False))
        probe.for_syn |= for_syn

    def follow(self, item: Item, now: float) -> None:
        """Have a probe follow a SYN at once, or as soon as the one that is under way has been answered."""
        self._kept_ports.add(item.seen.source_port)
        probe = self._probes.get(target_of(item))
        if probe is None or not probe.is_under_way or now >= probe.due:
            probe = self._probes[target_of(item)] = _Probe(item, item.seen.target_port, for_syn=True, due=now)
        probe.for_syn = True
        self._next_at = min(self._next_at, probe.due)

    def reached(self) -> set[bytes]:
        """Return the clients that the guest reaches."""
        return set(self._reached)

    def reaches(self, client: bytes) -> bool:
        """Say whether the guest reaches a client."""
        return client in self._reached

    def has_followed(self, item: Item) -> bool:
        """Say whether a probe was answered that was sent after a packet had come."""
        return self._reached.get(item.seen.sender, float("-inf")) >= item.at

    def listens(self, port: int) -> bool:
        """Say whether a TCP port of the guest listens."""
        return port in self._listening

    def answered(self, reply: Seen, following: Sequence[Item], now: float) -> _Probe | None:
        """Look at a TCP segment of the guest; return the probe that it answers.

        `following` are SYNs that a probe must follow. If one came after this probe was sent, it is sent again at once.
        """
        sequence, probe, asked_at = self._asked.get((reply.target, reply.target_port), (0, None, now))
        if probe is None or not reply.flags & (frames.SYN | frames.RST):
            return None
        if reply.source_port != probe.port or reply.ack != (sequence + 1) % 2**32:
            return None  # it answers a connection of the client's own
        self._reached[reply.target] = max(asked_at, self._reached.get(reply.target, asked_at))
        probe.is_under_way = False
        probe.pause_s = min(max(RETRY_S, now - asked_at), MAX_PROBE_PAUSE_S)
        is_overtaken = any(target_of(item) == (reply.target, probe.port) and item.at > asked_at for item in following)
        probe.due = now if is_overtaken else now + probe.pause_s
        self._next_at = min(self._next_at, probe.due)
        if not reply.flags & frames.RST:
            self._listening.add(probe.port)
        return probe

    def send(self, now: float, mac: bytes, syns: Sequence[Item], *, is_unproven: bool) -> list[bytes]:
        """Return the probes that are due. `syns` are those that wait for one; `is_unproven`: datagrams do so too."""
        if now < self._next_at or not self._probes:
            return []
        targets = {target_of(item) for item in syns}
        self._probes = {
            target: probe
            for target, probe in self._probes.items()
            if (target in targets if probe.for_syn else is_unproven and target[0] not in self._reached)
        }
        due = [target for target, probe in self._probes.items() if probe.due <= now]
        sent = [frame for target in due[:MAX_PROBES] if (frame := self._send(target, mac, now)) is not None]
        self._next_at = max(now + RETRY_S, min((probe.due for probe in self._probes.values()), default=now))
        return sent

    def _send(self, target: Target, mac: bytes, now: float) -> bytes | None:
        probe = self._probes[target] = self._probes.pop(target)
        probe.due, probe.pause_s = now + probe.pause_s, min(2 * probe.pause_s, MAX_PROBE_PAUSE_S)
        probe.is_under_way = True
        port = next((port for port in self._probe_ports() if port not in self._kept_ports), None)
        if port is None:
            return None  # kept packets use all of them; the probe is due again
        sequence = int(now * 250_000) % 2**32  # RFC 9293, 3.4.1: grows every 4 microseconds
        self._asked[target[0], port] = sequence, probe, now
        return frames.probe(probe.item.frame, probe.item.seen, mac, port, probe.port, sequence)

    def deadline(self) -> float | None:
        """Return when to call `send`."""
        return self._next_at if self._probes else None

    def _probe_ports(self) -> Iterator[int]:
        """Yield ports to probe from, as many as may be in the way and one more."""
        return (self.probe_port() for _ in range(min(len(self._kept_ports) + 1, PROBE_PORTS)))


def target_of(item: Item) -> Target:
    """Return the client of a packet, and the port of the guest that it is for."""
    return item.seen.sender, item.seen.target_port
