"""The interface between the four ends of the bus and a transport: ZeroMQ, or memory in the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Sent(Enum):
    """The result of sending a message to one peer."""

    SENT = "sent"
    FULL = "full"
    """The peer cannot take another message now."""
    GONE = "gone"


@dataclass(slots=True)
class Incoming:
    """A request as it arrives at its owner."""

    peer: bytes
    """The connection that it came over, and that its reply goes to."""
    frame: memoryview
    role: str | None = None
    """The role of its sender's key; None if this suite has no keys."""


class CallerLink(Protocol):
    """A caller's connection to an owner."""

    def send(self, frame: bytes) -> bool:
        """Send without waiting; False if nobody could take it, and it is not queued then."""

    async def attend(self, take: Callable[[bytes], None]) -> None:
        """Give each reply to `take`, until cancelled; raises what that raises."""

    def close(self) -> None:
        """Close it."""


class OwnerLink(Protocol):
    """An owner's connections to all its callers."""

    def send(self, peer: bytes, frame: bytes) -> Sent:
        """Send to one peer without waiting."""

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        """Give each request to `take`, until cancelled; raises what that raises."""

    def close(self) -> None:
        """Close it, and give its endpoint up."""


class FollowerLink(Protocol):
    """A follower's connection to a feed."""

    async def attend(self, take: Callable[[bytes], None]) -> None:
        """Give each item of one topic to `take`, until cancelled; raises what that raises."""

    def close(self) -> None:
        """Close it."""


class FeedLink(Protocol):
    """An owner's connections to all followers of its feed."""

    def publish(self, topic: str, frame: bytes) -> None:
        """Send to all followers of a topic; one whose queue is full misses the message."""

    async def attend(self) -> None:
        """Keep the transport working until cancelled."""

    def close(self) -> None:
        """Close it, and give its endpoint up."""


class CountDropped(Protocol):
    """Counts messages that were dropped or refused (metrics.py)."""

    def __call__(self, reason: str) -> None:
        """Count one."""
