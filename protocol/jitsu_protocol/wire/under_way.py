"""The requests that an owner works on: which peer gets each reply, and how many one peer may have at a time (G9)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MAX_REQUESTS = 20_000
"""Requests worked on at once; more are answered `unavailable`."""
MAX_REQUESTS_OF_PEER = 12_000
"""How many of these may come over one connection. It leaves room for other peers, yet one dns may wake 10,000 VMs."""


@dataclass
class UnderWay:
    """The peers that wait for a reply, by the id of their requests."""

    _peers: dict[bytes, bytes] = field(default_factory=dict)
    _counts: Counter[bytes] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._peers)

    @property
    def peers(self) -> int:
        """How many connections have requests under way."""
        return len(self._counts)

    def begin(self, id: bytes, peer: bytes) -> None:
        """Note the peer that gets the reply; for a request that came twice, that is the latest connection."""
        if id in self._peers:
            self._one_less(self._peers[id])
        self._peers[id] = peer
        self._counts[peer] += 1

    def is_too_many(self, peer: bytes) -> bool:
        """Return whether the request that was begun last is one too many."""
        return len(self._peers) > MAX_REQUESTS or self._counts[peer] > MAX_REQUESTS_OF_PEER

    def end(self, id: bytes) -> bytes:
        """Return the peer that gets the reply; the request is no longer under way."""
        peer = self._peers.pop(id)
        self._one_less(peer)
        return peer

    def _one_less(self, peer: bytes) -> None:
        self._counts[peer] -= 1
        if self._counts[peer] <= 0:
            del self._counts[peer]
