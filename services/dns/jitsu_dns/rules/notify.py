"""Secondaries are told that a zone has changed (NOTIFY, RFC 1996), each until it says that it has heard.

state of (secondary, zone)   event                      then
-                            the zone changes           due in GATHER_S: what changes meanwhile is told with it
due, told                    the zone changes again     due in GATHER_S, as if it had not been told
due                          time                       told; again after 2, 4, 8 ... s
told                         the secondary answers      over
told                         told MAX_TRIES times       over, and said in the log: it asks by itself at its refresh
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_dns.rules.transfer import notify_message

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
    due: float
    id: int = -1
    tries: int = 0


class Notifier:
    """What which secondary has still to hear."""

    def __init__(self, secondaries: Sequence[Server], soa: Callable[[bytes], bytes | None], rng: Random) -> None:
        """`soa` returns a zone's SOA record as it is now, None if the zone is held no more."""
        self.secondaries = tuple(secondaries)
        self.unheard = 0
        """How often a secondary was given up."""
        self._soa, self._rng = soa, rng
        self._open: dict[tuple[Server, bytes], _Told] = {}

    def changed(self, zones: Iterable[bytes], now: float) -> None:
        """Note that zones have changed."""
        for zone in zones:
            for server in self.secondaries:
                self._open[server, zone] = _Told(now + GATHER_S)

    def answered(self, server: Server, data: bytes) -> None:
        """Take a packet from a secondary; only an answer to what was asked ends the matter."""
        id = int.from_bytes(data[:2], "big")
        for (to, zone), told in self._open.items():
            if to == server and told.id == id and data[2:3] and data[2] & 0xF8 == 0xA0 and zone in data[:300].lower():
                del self._open[to, zone]
                return

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return min((told.due for told in self._open.values()), default=None)

    def passed(self, now: float) -> list[Tell]:
        """Return what is to be sent."""
        tell: list[Tell] = []
        for (server, zone), told in list(self._open.items()):
            if told.due > now:
                continue
            soa = self._soa(zone)
            if soa is None or told.tries >= MAX_TRIES:
                self.unheard += soa is not None
                del self._open[server, zone]
            elif len(tell) >= MAX_AT_ONCE:
                told.due = now + SPREAD_S
            else:
                told.due = now + FIRST_RETRY_S * 2**told.tries
                told.tries += 1
                told.id = self._rng.randrange(65536)
                tell.append(Tell(server, notify_message(told.id, zone, soa)))
        return tell
