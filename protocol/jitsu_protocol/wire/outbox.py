"""Replies that a peer does not take as fast as they are made: what waits for it is bounded in bytes (G9).

A reply goes into the peer's own queue of the socket, which holds a few messages. Beyond that it waits here; when too
much waits for one peer, or for all together, the oldest replies to the peer with the most are dropped. That peer asks
again, and costs nobody else anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MAX_BYTES_PER_PEER = 16 * 1024 * 1024
MAX_BYTES = 32 * 1024 * 1024
OVERHEAD_BYTES = 200
"""Of each reply, beside its frame."""


@dataclass
class Outbox:
    """What waits for each peer, oldest first."""

    dropped: int = 0
    _waiting: dict[bytes, deque[bytes]] = field(default_factory=dict)
    _bytes: dict[bytes, int] = field(default_factory=dict)
    total: int = 0

    def __bool__(self) -> bool:
        """Say whether anything waits."""
        return bool(self._waiting)

    def peers(self) -> list[bytes]:
        """Return the peers for which something waits."""
        return list(self._waiting)

    def has(self, peer: bytes) -> bool:
        """Say whether something waits for a peer: what is made for it now comes after that."""
        return peer in self._waiting

    def put(self, peer: bytes, frame: bytes) -> None:
        """Let a reply wait, and drop what is too much."""
        self._waiting.setdefault(peer, deque()).append(frame)
        self._add(peer, _size(frame))
        while self._bytes.get(peer, 0) > MAX_BYTES_PER_PEER:
            self._drop(peer)
        while self.total > MAX_BYTES:
            self._drop(max(self._bytes, key=self._bytes.__getitem__))

    def first(self, peer: bytes) -> bytes | None:
        """Return the reply that a peer gets next."""
        waiting = self._waiting.get(peer)
        return waiting[0] if waiting else None

    def sent(self, peer: bytes) -> None:
        """Note that it has been sent."""
        self._add(peer, -_size(self._waiting[peer].popleft()))
        if not self._waiting[peer]:
            del self._waiting[peer], self._bytes[peer]

    def forget(self, peer: bytes) -> None:
        """Note that a peer is gone."""
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
