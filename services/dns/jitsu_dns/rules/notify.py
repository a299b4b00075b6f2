"""Notifies secondaries that a zone has changed (NOTIFY, RFC 1996), each until it acknowledges.

For each secondary and zone:

    nothing is open  the zone changes             a NOTIFY is due in GATHER_S, and announces all changes until then
    due, or sent     the zone changes again       due in GATHER_S, as if it had not been sent
    due              the time comes               sent; again after 2, 4, 8 ... s
    sent             the secondary acknowledges   over
    sent             it was sent MAX_TRIES times  over, and logged: the secondary asks by itself at its next refresh

They stand in a queue of deadlines and are found by the zone that is acknowledged: with ten thousand zones, neither an
acknowledgement nor a look at the clock goes over those that it does not concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_dns.rules.transfer import notify_message
from jitsu_protocol.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from random import Random

GATHER_S = 0.5
FIRST_RETRY_S = 2.0
MAX_TRIES = 6
MAX_AT_ONCE = 100
"""Messages that one call of `tick` makes; the others follow SPREAD_S later."""
SPREAD_S = 0.1

Server = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True)
class ZonesChanged:
    """Zones have other records, or another serial."""

    zones: Collection[bytes]


@dataclass(frozen=True)
class NotifyAnswered:
    """A secondary has sent a packet."""

    server: Server
    data: bytes


Event = ZonesChanged | NotifyAnswered


@dataclass(frozen=True)
class SendNotify:
    """Send a NOTIFY to a secondary."""

    server: Server
    data: bytes


@dataclass(frozen=True)
class LogUnheard:
    """Log that secondaries did not acknowledge."""


Action = SendNotify | LogUnheard


@dataclass
class _Announcement:
    """What one secondary has still to hear about one zone."""

    id: int = -1
    tries: int = 0


Key = tuple[Server, bytes]
"""A secondary and a zone, as its name is on the wire."""


class Notifier:
    """All that secondaries have still to hear."""

    def __init__(self, secondaries: Sequence[Server], soa: Callable[[bytes], bytes | None], rng: Random) -> None:
        """`soa` returns a zone's SOA record as it is now, None if the zone is no longer held."""
        self.secondaries = tuple(secondaries)
        self._soa, self._rng = soa, rng
        self._open: dict[Key, _Announcement] = {}
        self._asked: dict[tuple[Server, int], list[bytes]] = {}
        """Secondary and message id -> the zones of such a NOTIFY; mostly one."""
        self._due: Deadlines[Key] = Deadlines()
        self._not_before = float("-inf")
        """The next messages are made no earlier."""

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return what is to be done because of an event: nothing before the deadline."""
        match event:
            case ZonesChanged(zones):
                for zone in zones:
                    for server in self.secondaries:
                        self._forget((server, zone))
                        self._open[server, zone] = _Announcement()
                        self._due.set((server, zone), now + GATHER_S)
            case NotifyAnswered(server, data):
                self._answered(server, data)
        return ()

    def _answered(self, server: Server, data: bytes) -> None:
        """Handle a packet from a secondary; only an acknowledgement of what was sent ends the matter."""
        if not data[2:3] or data[2] & 0xF8 != 0xA0:
            return
        text = data[:300].lower()
        for zone in self._asked.get((server, int.from_bytes(data[:2], "big")), ()):
            if zone in text:
                self._forget((server, zone))
                return

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        earliest = self._due.earliest()
        return None if earliest is None else max(earliest[1], self._not_before)

    def tick(self, now: float) -> Sequence[Action]:
        """Return what is to be sent."""
        actions: list[Action] = []
        if now < self._not_before:
            return actions
        count = unheard = 0
        while count < MAX_AT_ONCE and (key := self._due.pop_due(now)) is not None:
            announcement, (server, zone) = self._open[key], key
            soa = self._soa(zone)
            if soa is None or announcement.tries >= MAX_TRIES:
                unheard += soa is not None
                self._forget(key)
                continue
            self._due.set(key, now + FIRST_RETRY_S * 2**announcement.tries)
            self._no_longer_asked(key, announcement)
            announcement.tries += 1
            announcement.id = self._rng.randrange(65536)
            self._asked.setdefault((server, announcement.id), []).append(zone)
            actions.append(SendNotify(server, notify_message(announcement.id, zone, soa)))
            count += 1
        if count == MAX_AT_ONCE:
            self._not_before = now + SPREAD_S
        return [*actions, LogUnheard()] if unheard else actions

    def _forget(self, key: Key) -> None:
        announcement = self._open.pop(key, None)
        if announcement is not None:
            self._due.discard(key)
            self._no_longer_asked(key, announcement)

    def _no_longer_asked(self, key: Key, announcement: _Announcement) -> None:
        server, zone = key
        zones = self._asked.get((server, announcement.id), [])
        if zone in zones:
            zones.remove(zone)
            if not zones:
                del self._asked[server, announcement.id]
