"""Secondaries are told that a zone has changed (NOTIFY, RFC 1996), each until it says that it has heard.

state of (secondary, zone)   event                      then
-                            the zone changes           due in GATHER_S: what changes meanwhile is told with it
due, told                    the zone changes again     due in GATHER_S, as if it had not been told
due                          time                       told; again after 2, 4, 8 ... s
told                         the secondary answers      over
told                         told MAX_TRIES times       over, and said in the log: it asks by itself at its refresh

Each stands in a queue of deadlines, and is found by the answer's zone: with ten thousand zones, neither an answer nor a
look at the clock goes over those that it does not concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_dns.rules.transfer import notify_message
from jitsu_protocol.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

GATHER_S = 0.5
FIRST_RETRY_S = 2.0
MAX_TRIES = 6
MAX_AT_ONCE = 100
"""Messages that one call of `passed` makes; the others follow SPREAD_S later."""
SPREAD_S = 0.1

Server = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True)
class Tell:
    """Send a NOTIFY."""

    server: Server
    data: bytes


@dataclass
class _Told:
    id: int = -1
    tries: int = 0


Key = tuple[Server, bytes]
"""A secondary and a zone, as its name is on the wire."""


class Notifier:
    """What which secondary has still to hear."""

    def __init__(self, secondaries: Sequence[Server], soa: Callable[[bytes], bytes | None], rng: Random) -> None:
        """`soa` returns a zone's SOA record as it is now, None if the zone is no longer held."""
        self.secondaries = tuple(secondaries)
        self.unheard = 0
        """How often a secondary was given up."""
        self._soa, self._rng = soa, rng
        self._open: dict[Key, _Told] = {}
        self._asked: dict[tuple[Server, int], list[bytes]] = {}
        """Secondary and message id -> the zones that it was told of so; mostly one."""
        self._due: Deadlines[Key] = Deadlines()
        self._not_before = float("-inf")
        """The next messages are made no earlier."""

    def changed(self, zones: Iterable[bytes], now: float) -> None:
        """Note that zones have changed."""
        for zone in zones:
            for server in self.secondaries:
                self._forget((server, zone))
                self._open[server, zone] = _Told()
                self._due.set((server, zone), now + GATHER_S)

    def answered(self, server: Server, data: bytes) -> None:
        """Take a packet from a secondary; only an answer to what was asked ends the matter."""
        if not data[2:3] or data[2] & 0xF8 != 0xA0:
            return
        text = data[:300].lower()
        for zone in self._asked.get((server, int.from_bytes(data[:2], "big")), ()):
            if zone in text:
                self._forget((server, zone))
                return

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        earliest = self._due.earliest()
        return None if earliest is None else max(earliest[1], self._not_before)

    def passed(self, now: float) -> list[Tell]:
        """Return what is to be sent."""
        tell: list[Tell] = []
        if now < self._not_before:
            return tell
        while len(tell) < MAX_AT_ONCE and (key := self._due.pop_due(now)) is not None:
            told, (server, zone) = self._open[key], key
            soa = self._soa(zone)
            if soa is None or told.tries >= MAX_TRIES:
                self.unheard += soa is not None
                self._forget(key)
                continue
            self._due.set(key, now + FIRST_RETRY_S * 2**told.tries)
            self._no_longer_asked(key, told)
            told.tries += 1
            told.id = self._rng.randrange(65536)
            self._asked.setdefault((server, told.id), []).append(zone)
            tell.append(Tell(server, notify_message(told.id, zone, soa)))
        if len(tell) == MAX_AT_ONCE:
            self._not_before = now + SPREAD_S
        return tell

    def _forget(self, key: Key) -> None:
        told = self._open.pop(key, None)
        if told is not None:
            self._due.discard(key)
            self._no_longer_asked(key, told)

    def _no_longer_asked(self, key: Key, told: _Told) -> None:
        server, zone = key
        zones = self._asked.get((server, told.id), [])
        if zone in zones:
            zones.remove(zone)
            if not zones:
                del self._asked[server, told.id]
