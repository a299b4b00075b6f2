"""What is known of one VM that runs: who is connected to it, and which flows it has begun itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from jitsu_synjitsu.rules.datagrams import Datagrams
from jitsu_synjitsu.rules.frames import ACK, FIN, RST, SYN, Kind

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.frames import Seen

MAX_CONNECTIONS = 4096
"""Of one VM."""
MAX_REPLIES = 16
"""To one VM in a quarter of a second, on connections that it has opened: more are not looked at one by one."""

Connection = tuple[bytes, int, bytes, int]
"""Client's address and port, the VM's."""
Known = tuple[list[Connection], bool, list[Connection]]
"""The connections to a VM, whether there may be more, and the flows of datagrams that the VM has begun."""
_BY_CLIENT, _BY_VM = 1, 2
_BY_BOTH = _BY_CLIENT | _BY_VM


class IdleLimits(NamedTuple):
    """As the VM is configured, in seconds."""

    idle_timeout: float
    max_connection: float
    """A connection on which nothing was sent to the VM for this long is over."""


@dataclass
class Counted:
    """What was seen of a VM since `Running.look` was called."""

    replies: int = 0
    """Segments to it on connections that it has opened."""
    frames: int = 0
    """Frames to it or from it."""


@dataclass
class Running:
    """One VM that runs."""

    vm: str
    mac: bytes
    limits: IdleLimits
    used_at: float
    """When a packet to it was seen last, or may have been sent unseen."""
    blind_until: float = 0.0
    connections: dict[Connection, int] = field(default_factory=dict)
    """Connection -> which sides have closed it."""
    opened: dict[Connection, None] = field(default_factory=dict)
    """Connections that the VM has opened itself; of more than MAX_CONNECTIONS the oldest is forgotten."""
    datagrams: Datagrams = field(default_factory=Datagrams)
    counted: Counted = field(default_factory=Counted)
    maybe_more: bool = False
    """There may be connections that are not in the table."""
    drain: str = ""
    reported_up_to: float = -1.0
    """Up to when its use is known to the reaper."""

    def is_connected(self) -> bool:
        """Say whether anybody is connected, as far as is known."""
        return bool(self.connections) or self.maybe_more

    def known(self) -> Known:
        """Return what is to survive a restart of Synjitsu."""
        return list(self.connections), self.maybe_more, list(self.datagrams.own)

    def look(self) -> None:
        """Begin to count again."""
        self.counted = Counted()
        self.datagrams.look()

    def sends(self, seen: Seen, now: float) -> bool:
        """Look at a segment of the VM; say whether that changes which connections there are."""
        connection = (seen.target, seen.target_port, seen.sender, seen.source_port)
        if seen.flags & (SYN | ACK) == SYN | ACK:
            return self._accepts(connection)
        if seen.flags & SYN:
            self._opens(connection)
            return False
        return self._closes(connection, seen.flags, _BY_VM, now)

    def gets(self, seen: Seen, now: float) -> bool:
        """Look at a segment to the VM; say whether that changes which connections there are."""
        return self._closes((seen.sender, seen.source_port, seen.target, seen.target_port), seen.flags, _BY_CLIENT, now)

    def is_answered(self, seen: Seen, now: float) -> bool:
        """Say whether a packet to the VM answers what the VM has sent, and so does not count as use."""
        match seen.kind:
            case Kind.TCP:
                return self._is_segment_back(seen)
            case Kind.UDP:
                flow = (seen.sender, seen.source_port, seen.target, seen.target_port)
                return self.datagrams.is_reply(flow, now, seen.fragment)
            case Kind.FRAGMENT:
                return self.datagrams.is_rest_of_reply(seen.sender, seen.fragment)
            case Kind.OTHER:
                self.datagrams.doubt(now)  # a datagram behind more extension headers than are read, or cut short
                return False
            case _:
                return seen.kind in (Kind.ANSWER, Kind.UNREACHABLE)

    def _is_segment_back(self, seen: Seen) -> bool:
        """Say whether a segment to the VM belongs to a connection that the VM has opened: that does not keep it up."""
        connection = (seen.sender, seen.source_port, seen.target, seen.target_port)
        if connection not in self.opened:
            return False
        if seen.flags & (SYN | ACK) == SYN:  # now somebody else opens one with the same ports
            del self.opened[connection]
            return False
        self.counted.replies += 1
        return self.counted.replies <= MAX_REPLIES

    def _accepts(self, connection: Connection) -> bool:
        is_new = connection not in self.connections
        if is_new and len(self.connections) >= MAX_CONNECTIONS:
            del self.connections[next(iter(self.connections))]
            self.maybe_more = True
        self.connections[connection] = 0
        return is_new

    def _opens(self, connection: Connection) -> None:
        self.opened.pop(connection, None)
        self.opened[connection] = None
        if len(self.opened) > MAX_CONNECTIONS:
            del self.opened[next(iter(self.opened))]

    def _closes(self, connection: Connection, flags: int, side: int, now: float) -> bool:
        if connection not in self.connections:
            return False
        if flags & FIN:
            self.connections[connection] |= side
        if not flags & RST and self.connections[connection] != _BY_BOTH:
            return False
        del self.connections[connection]
        self.used_at = max(self.used_at, now)
        return True
