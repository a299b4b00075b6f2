"""Sends replies to peers, and keeps those that a slow peer does not take at once (wire/outbox.py)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.wire.outbox import Outbox
from jitsu_runtime.bus.links import Sent

if TYPE_CHECKING:
    from jitsu_runtime.bus.links import CountDropped, OwnerLink

FLUSH_S, MAX_FLUSH_S = 0.0005, 0.05


class Replies:
    """All replies of one owner."""

    def __init__(self, link: OwnerLink, dropped: CountDropped) -> None:
        self._link = link
        self._dropped = dropped
        self._outbox = Outbox()
        self._waits = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for slow peers, besides those that the transport has."""
        return self._outbox.total

    def send(self, peer: bytes, frame: bytes) -> None:
        """Send a reply now, or after those that wait for its peer already."""
        if self._outbox.has(peer) or self._link.send(peer, frame) is Sent.FULL:
            before = self._outbox.dropped
            self._outbox.put(peer, frame)
            for _ in range(self._outbox.dropped - before):
                self._dropped("slow-reader")
            self._waits.set()

    async def flush_for_ever(self) -> None:
        """Send the replies that wait, and try again and again: the transport does not report when a peer has room."""
        pause = FLUSH_S
        while True:
            await self._waits.wait()
            progress = [self._flush(peer) for peer in self._outbox.peers()]
            if not self._outbox:
                self._waits.clear()
            pause = FLUSH_S if any(progress) else min(2 * pause, MAX_FLUSH_S)
            await asyncio.sleep(pause)

    def _flush(self, peer: bytes) -> bool:
        """Send the replies that wait for a peer, and return whether it took any."""
        progress = False
        while (frame := self._outbox.first(peer)) is not None:
            match self._link.send(peer, frame):
                case Sent.FULL:
                    break
                case Sent.GONE:
                    self._outbox.forget(peer)
                case Sent.SENT:
                    progress = True
                    self._outbox.sent(peer)
        return progress
