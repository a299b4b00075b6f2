"""Whether one connection to a hypervisor is open, and when it is opened again.

Each connection of vmd has a machine of its own, so that whatever goes wrong with one delays no other. A connection is
opened first, and then its events are followed until something ends that. Two things can: the hypervisor is away, which
is nobody's fault and ends some day; or the code for its kind has raised what it should not raise, which will probably
happen again. A fault is therefore reported, and after each fault it takes twice as long until the connection is opened
again. While a fault lasts nothing is asked of the connection: its VMs stay as they were seen last, and none is started.

    state      event       then                 what happens
    opening    WasOpened   following            FollowEvents, and, if it is not the first time, all VMs are looked at
    opening    WasAway     waiting              it is opened again after AWAY_S
    opening    Broke       waiting              it is reported, and opened again after the back-off
    following  WasAway     waiting              it is opened again after AWAY_S
    following  Broke       waiting              it is reported, and opened again after the back-off
    waiting    Tick        waiting, opening     OpenConnection, if the time has come

The back-off begins again at FIRST_S when events were followed for STABLE_S without a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from jitsu_protocol.machine import Tick, Transition, step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

AWAY_S = 1.0
"""A hypervisor that is restarted is back within seconds, and somebody waits for it."""
FIRST_S, LIMIT_S = 1.0, 60.0
STABLE_S = 60.0
NOT_YET = "it is not connected yet"


class ConnectionState(StrEnum):
    """What is done about a connection."""

    OPENING = "opening"
    FOLLOWING = "following"
    WAITING = "waiting"


@dataclass(frozen=True)
class WasOpened:
    """The hypervisor has answered."""


@dataclass(frozen=True)
class WasAway:
    """The hypervisor does not answer now."""

    reason: str


@dataclass(frozen=True)
class Broke:
    """The code for the hypervisor has failed in a way that nobody expected."""

    reason: str


@dataclass(frozen=True)
class OpenConnection:
    """Open the connection; report back with WasOpened, WasAway or Broke."""


@dataclass(frozen=True)
class FollowEvents:
    """Follow what the hypervisor reports; report back with WasAway or Broke when that ends."""

    has_missed: bool
    """Something may have happened in the meantime: look at all VMs."""


ConnectionEvent = WasOpened | WasAway | Broke
ConnectionAction = OpenConnection | FollowEvents


class ConnectionMachine:
    """One connection. Its first opening has begun when it is made."""

    def __init__(self) -> None:
        self.state = ConnectionState.OPENING
        self.fault = ""
        """What has broken, until the connection is open again; "" if nothing has."""
        self.away = NOT_YET
        """Why it is not open; "" while it is."""
        self.faults = 0
        """How often it has broken in all."""
        self._was_open = False
        self._in_a_row = 0
        self._followed_since = 0.0
        self._opens_at = 0.0
        self._actions: list[ConnectionAction] = []

    def handle(self, event: ConnectionEvent | Tick, now: float) -> list[ConnectionAction]:
        """Return what is to be done after an event."""
        step(TRANSITIONS, self, event, now)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> float | None:
        """Return when it is to be opened again."""
        return self._opens_at if self.state is ConnectionState.WAITING else None

    def tick(self, now: float) -> list[ConnectionAction]:
        """Return what is to be done because of the time."""
        return self.handle(Tick(), now) if self.state is ConnectionState.WAITING else []

    # --- the rows of the table ---

    def opened(self, _: WasOpened, now: float) -> None:
        """Follow its events."""
        self.state = ConnectionState.FOLLOWING
        self.fault = self.away = ""
        self._followed_since = now
        self._actions.append(FollowEvents(has_missed=self._was_open))
        self._was_open = True

    def was_away(self, event: WasAway, now: float) -> None:
        """Open it again soon."""
        self.away = event.reason
        self._wait(now + AWAY_S)

    def broke(self, event: Broke, now: float) -> None:
        """Open it again, later each time."""
        if self.state is ConnectionState.FOLLOWING and now - self._followed_since >= STABLE_S:
            self._in_a_row = 0
        self.fault = self.away = event.reason
        self.faults += 1
        self._in_a_row += 1
        self._wait(now + min(FIRST_S * 2.0 ** min(self._in_a_row - 1, 10), LIMIT_S))

    def _wait(self, until: float) -> None:
        self.state = ConnectionState.WAITING
        self._opens_at = until

    def looked_at_the_clock(self, _: Tick, now: float) -> None:
        """Open it, if it is time."""
        if now >= self._opens_at:
            self.state = ConnectionState.OPENING
            self._actions.append(OpenConnection())


_OPENING, _FOLLOWING, _WAITING = ConnectionState
_Row = Transition[ConnectionMachine]

TRANSITIONS: Mapping[tuple[ConnectionState, type[Any]], _Row] = {
    (_OPENING, WasOpened): _Row(ConnectionMachine.opened, frozenset({_FOLLOWING})),
    (_OPENING, WasAway): _Row(ConnectionMachine.was_away, frozenset({_WAITING})),
    (_OPENING, Broke): _Row(ConnectionMachine.broke, frozenset({_WAITING})),
    (_FOLLOWING, WasAway): _Row(ConnectionMachine.was_away, frozenset({_WAITING})),
    (_FOLLOWING, Broke): _Row(ConnectionMachine.broke, frozenset({_WAITING})),
    (_WAITING, Tick): _Row(ConnectionMachine.looked_at_the_clock, frozenset({_WAITING, _OPENING})),
}
