"""Hands every event to whoever listens: pages, webhooks, MQTT.

A listener has a place in the log (rules/event_log.py) and reads from there at its own speed. It cannot delay anybody,
and what it has missed beyond the log's length it is told with a ResetEvent.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from jitsu_web.rules.event_log import EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from jitsu_web.rules.event_log import NumberedEvent
    from jitsu_web.rules.events import WebEvent

MAX_ENCODED = 1_000
"""Keep this many of the latest events in the form in which pages get them: twenty pages then cost one encoding."""


class Hub:
    """All events of this process."""

    def __init__(self, epoch: str) -> None:
        self.log = EventLog(epoch)
        self._moved = asyncio.Event()
        self._encoded: dict[int, bytes] = {}
        self._is_closed = False
        self.readers = 0
        """How many read events now."""

    def publish(self, events: Iterable[WebEvent]) -> None:
        """Number events, and wake those who wait for some."""
        is_any = False
        for event in events:
            self.log.add(event)
            is_any = True
        if is_any:
            self._moved.set()
            self._moved = asyncio.Event()

    async def until(self, is_so: Callable[[], bool], limit_s: float) -> bool:
        """Wait until something is so, which is looked at after each event; return False if `limit_s` is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not is_so():
                    await self._moved.wait()
        return is_so()

    def close(self) -> None:
        """End what all listeners read: this process stops."""
        self._is_closed = True
        self._moved.set()

    async def read(self, last_id: str = "") -> AsyncGenerator[NumberedEvent, None]:
        """Yield every event after one, until this process stops; a ResetEvent stands for those no longer kept."""
        place = self.log.place(last_id)
        self.readers += 1
        try:
            while not self._is_closed:
                moved = self._moved
                found = None if place is None else self.log.after(place)
                if found is None:
                    again = self.log.reset()
                    place = again.number
                    yield again
                    continue
                for each in found:
                    place = each.number
                    yield each
                if not found:
                    await moved.wait()
        finally:
            self.readers -= 1

    def encoded(self, event: NumberedEvent) -> bytes:
        """Return an event as the text of a stream (server-sent events, HTML standard, section 9.2)."""
        if event.event.kind == "reset":
            return _encode(event)
        if event.number not in self._encoded:
            self._encoded[event.number] = _encode(event)
            while len(self._encoded) > MAX_ENCODED:
                del self._encoded[next(iter(self._encoded))]
        return self._encoded[event.number]


def _encode(event: NumberedEvent) -> bytes:
    # JSON has no line breaks in it, so the data are one line.
    data = json.dumps(event.event.data(), separators=(",", ":"), allow_nan=False)
    return f"id: {event.id}\nevent: {event.event.kind}\ndata: {data}\n\n".encode()
