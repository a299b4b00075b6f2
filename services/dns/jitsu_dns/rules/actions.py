"""What a replica's rules want done, who asked, and what is counted: the plain data between rules and wires."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator


@dataclass(frozen=True)
class Send:
    """Send a response to a client."""

    client: Hashable
    data: bytes


@dataclass(frozen=True)
class SendAll:
    """Send messages to a client over TCP, each when it can take it."""

    client: Hashable
    messages: Iterator[bytes]


@dataclass(frozen=True)
class AskSummon:
    """Ask vmd to make a VM reachable; answer with `summoned` or `refused`."""

    vm: str
    timeout: float
    """Seconds."""


@dataclass(frozen=True)
class ReportNow:
    """Tell the reaper at once: a VM drains."""


Action = Send | SendAll | AskSummon | ReportNow


@dataclass(frozen=True, slots=True)
class Asker:
    """Where a query came from."""

    client: Hashable
    """What a response is sent to."""
    address: bytes
    """4 or 16 bytes."""
    udp: bool


@dataclass(frozen=True)
class About:
    """What a replica says of itself (class CH; NSID), and to whom TCP connections are kept."""

    version: str = ""
    """Empty: not told."""
    replica: str = ""
    tcp_idle: float = 10.0


@dataclass
class Counts:
    """What happened since the start, for the metrics."""

    answers: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    """(type, rcode, path): warm, cold, fixed, outside, forwarded, denied, other."""
    malformed: int = 0
    late: int = 0
    overflow: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds that cold queries waited, since the shell last took them."""
