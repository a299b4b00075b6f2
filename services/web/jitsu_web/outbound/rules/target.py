"""One target of events: the deliveries of all VMs to it, of which a few are under way at the same time.

    LetterRecorded   the delivery of its VM has one more event
    SendEnded        the delivery goes on with the next event, pauses, or gives the event up; its slot is free
    LetterEvicted    the event is forgotten
    tick             deliveries whose pause is over ask for a slot again

Slots are given in the order in which they are asked for. A delivery that has nothing left is forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from jitsu_protocol.deadlines import Deadlines
from jitsu_web.outbound.rules.delivery import (
    Admitted,
    AskAdmission,
    Bury,
    Delivered,
    Delivery,
    DeliveryAction,
    DeliveryState,
    Enqueued,
    Evicted,
    Failed,
    ForgetLetter,
    Letter,
    SendLetter,
)

SLOTS = 4
"""Attempts under way to one target: enough to hide a round trip, and few for a receiver that is down."""


@dataclass(frozen=True)
class LetterRecorded:
    """An event for this target is in the queue file."""

    key: str
    letter: Letter


@dataclass(frozen=True)
class SendEnded:
    """What was sent was taken or not."""

    key: str
    outcome: Delivered | Failed


@dataclass(frozen=True)
class LetterEvicted:
    """An event is no longer in the queue file."""

    key: str
    id: str


TargetEvent = LetterRecorded | SendEnded | LetterEvicted
TargetAction = SendLetter | ForgetLetter | Bury


@dataclass
class Target:
    """All deliveries to one target. It is a machine."""

    slots: int = SLOTS
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    sending: int = 0
    _ready: deque[str] = field(default_factory=deque)
    _pauses: Deadlines[str] = field(default_factory=Deadlines)

    def handle(self, event: TargetEvent, now: float) -> list[TargetAction]:
        """Return what follows from an event."""
        match event:
            case LetterRecorded(key, letter):
                delivery = self.deliveries.setdefault(key, Delivery(key))
                return self._performed(delivery, delivery.handle(Enqueued(letter), now), now)
            case SendEnded(key, outcome):
                self.sending -= 1
                delivery = self.deliveries[key]
                return self._performed(delivery, delivery.handle(outcome, now), now)
            case LetterEvicted(key, id):
                if (found := self.deliveries.get(key)) is None:
                    return []
                return self._performed(found, found.handle(Evicted(id), now), now)

    def deadline(self) -> float | None:
        """Return when the next pause ends."""
        found = self._pauses.earliest()
        return None if found is None else found[1]

    def tick(self, now: float) -> list[TargetAction]:
        """Wake the deliveries whose pause is over."""
        actions: list[TargetAction] = []
        while (key := self._pauses.pop_due(now)) is not None:
            if (delivery := self.deliveries.get(key)) is not None:
                actions += self._performed(delivery, delivery.tick(now), now)
        return actions

    def waiting(self) -> int:
        """Return how many events are not delivered yet."""
        return sum(len(each.letters) for each in self.deliveries.values())

    def _performed(self, delivery: Delivery, actions: list[DeliveryAction], now: float) -> list[TargetAction]:
        """Keep what is for this machine, and return what is for the world."""
        outward: list[TargetAction] = []
        for action in actions:
            if isinstance(action, AskAdmission):
                self._ready.append(action.key)
            else:
                outward.append(action)
        if (at := delivery.deadline()) is not None:
            self._pauses.set(delivery.key, at)
        if delivery.state is DeliveryState.IDLE:
            self.deliveries.pop(delivery.key, None)
        return outward + self._admit(now)

    def _admit(self, now: float) -> list[TargetAction]:
        outward: list[TargetAction] = []
        while self._ready and self.sending < self.slots:
            delivery = self.deliveries.get(self._ready.popleft())
            if delivery is None or delivery.state is not DeliveryState.READY:
                continue  # its events were evicted while it waited
            self.sending += 1
            outward += [each for each in delivery.handle(Admitted(), now) if not isinstance(each, AskAdmission)]
        return outward
