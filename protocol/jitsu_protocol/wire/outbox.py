"""Replies that wait for slow peers, bounded in bytes (G9).

The transport has a queue for each peer, with room for a few messages. When it is full, further replies to that peer
wait here. When too many bytes wait for one peer, or for all peers together, the oldest replies to the peer with the
most are dropped. That peer sends its requests again, and no other peer is affected.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MAX_BYTES_PER_PEER = 16 * 1024 * 1024
MAX_BYTES = 32 * 1024 * 1024
OVERHEAD_BYTES = 200
"""The memory that each reply needs besides its frame."""


@dataclass
class Outbox:
    """The replies that wait, for each peer the oldest first."""

    dropped: int = 0
    _waiting: dict[bytes, deque[bytes]] = field(default_factory=dict)
    _bytes: dict[bytes, int] = field(default_factory=dict)
    total: int = 0

    def __bool__(self) -> bool:
        """Return whether any reply waits."""
        return bool(self._waiting)

    def peers(self) -> list[bytes]:
        """Return the peers for which replies wait."""
        return list(self._waiting)

    def has(self, peer: bytes) -> bool:
        """Return whether replies wait for a peer, so that a new one has to wait behind them."""
        return peer in self._waiting

    def put(self, peer: bytes, frame: bytes) -> None:
        """Add a reply, and drop old ones if there are too many bytes now."""
        self._waiting.setdefault(peer, deque()).append(frame)
        self._add(peer, _size(frame))
        while self._bytes.get(peer, 0) > MAX_BYTES_PER_PEER:
            self._drop(peer)
        while self.total > MAX_BYTES:
            self._drop(max(self._bytes, key=self._bytes.__getitem__))

    def first(self, peer: bytes) -> bytes | None:
        """Return the reply that a peer gets next; None if there is none."""
        waiting = self._waiting.get(peer)
        return waiting[0] if waiting else None

    def sent(self, peer: bytes) -> None:
        """Remove the first reply to a peer, which has been sent."""
        self._add(peer, -_size(self._waiting[peer].popleft()))
        if not self._waiting[peer]:
            del self._waiting[peer], self._bytes[peer]

    def forget(self, peer: bytes) -> None:
        """Remove all replies to a peer, which has disconnected."""
        self.total -= self._bytes.pop(peer, 0)
        self._waiting.pop(peer, None)

    def _drop(self, peer: bytes) -> None:
        self.dropped += 1
        self.sent(peer)

    def _add(self, peer: bytes, size: int) -> None:
        self._bytes[peer] = self._bytes.get(peer, 0) + size
        self.total += size


def _size(frame: bytes) -> int:
    return len(frame) + OVERHEAD_BYTES
