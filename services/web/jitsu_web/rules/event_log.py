"""The latest events, numbered, so that a reader that lost its connection goes on where it was (Last-Event-ID).

An id is `EPOCH-NUMBER`. The epoch changes when jitsu-web starts, because numbers begin again then. A reader whose id is
of another epoch, or older than what is kept, gets a ResetEvent and reads everything again.

Each reader has a place in the log and not a queue of its own, so that a slow reader costs no memory, and a reader that
fell behind by more than the log gets a reset as well.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_web.rules.events import ResetEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_web.rules.events import WebEvent

MAX_EVENTS = 5_000
"""A hundred seconds of 50 changes a second, which is longer than a page needs to connect again."""


@dataclass(frozen=True)
class NumberedEvent:
    """An event and its id."""

    number: int
    id: str
    event: WebEvent


class EventLog:
    """The latest events of this process."""

    def __init__(self, epoch: str, limit: int = MAX_EVENTS) -> None:
        """`epoch` differs for each start, and consists of letters and digits."""
        self._epoch = epoch
        self._events: deque[NumberedEvent] = deque(maxlen=limit)
        self.last = 0
        """The number of the latest event; the first one has the number 1."""

    def add(self, event: WebEvent) -> NumberedEvent:
        """Number an event and keep it."""
        self.last += 1
        numbered = NumberedEvent(self.last, f"{self._epoch}-{self.last}", event)
        self._events.append(numbered)
        return numbered

    def place(self, last_id: str) -> int | None:
        """Return the number after which a reader goes on; None if it has to read everything again.

        A reader without an id begins after the latest event.
        """
        if not last_id:
            return self.last
        epoch, _, digits = last_id.rpartition("-")
        if epoch != self._epoch or not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
            return None
        number = int(digits)
        return number if self._oldest() - 1 <= number <= self.last else None

    def after(self, number: int) -> Sequence[NumberedEvent] | None:
        """Return the events after a number; None if some of them are no longer kept."""
        if number >= self.last:
            return ()
        oldest = self._oldest()
        if number < oldest - 1:
            return None
        # A deque is indexed in steps from its nearer end: a reader that is up to date takes a few.
        wanted = min(self.last - number, len(self._events))
        return [self._events[index] for index in range(len(self._events) - wanted, len(self._events))]

    def reset(self) -> NumberedEvent:
        """Return a reset with the id of the latest event, which is where the reader goes on."""
        return NumberedEvent(self.last, f"{self._epoch}-{self.last}", ResetEvent())

    def _oldest(self) -> int:
        return self._events[0].number if self._events else self.last + 1
