"""The events of one VM on their way to one target: in their order, until the target has taken each of them.

A target is a webhook, an MQTT broker or a notification service. Of the events of one VM, only the oldest is ever under
way to a target, so that a receiver sees them in their order. Events of other VMs have deliveries of their own. A target
admits a few of these at the same time (target.py), so that a receiver that is slow or gone costs a bounded number of
connections, and delays no other target.

An attempt that fails is repeated after a pause that doubles each time. An event that the target refuses for good, or
that is older than `retry_for`, becomes a dead letter: it is kept for an operator, and the next event has its turn. An
event that was sent may be sent again, because its acknowledgement was lost or this process died; a receiver knows it
by its id.

    state     event      then                   what happens
    idle      Enqueued   ready                  AskAdmission: the event is the oldest
    ready     Enqueued   ready                  it waits behind the others
    ready     Admitted   sending                SendLetter, the oldest
    ready     Evicted    ready, idle            the event is forgotten, because the queue is full
    sending   Enqueued   sending                it waits behind the others
    sending   Delivered  idle, ready            ForgetLetter; AskAdmission for the next event, if there is one
    sending   Failed     waiting, idle, ready   a pause begins; after the last attempt Bury, and the next has its turn
    sending   Evicted    sending                it is forgotten, but what is under way cannot be called back
    waiting   Enqueued   waiting                it waits behind the others
    waiting   Evicted    waiting, idle          the event is forgotten; the pause goes on for the next
    waiting   Tick       waiting, ready         AskAdmission, when the pause is over
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from jitsu_protocol.machine import Tick, Transition, step

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 300.0


class DeliveryState(StrEnum):
    """Where the oldest event of a VM stands."""

    IDLE = "idle"
    READY = "ready"
    SENDING = "sending"
    WAITING = "waiting"


@dataclass(frozen=True)
class Letter:
    """An event that is to be delivered."""

    id: str
    expires_at: float
    """When it is given up; on the clock of the machine."""


@dataclass(frozen=True)
class Enqueued:
    """An event is in the queue file, and is to be delivered."""

    letter: Letter


@dataclass(frozen=True)
class Admitted:
    """The target has a slot for the oldest event."""


@dataclass(frozen=True)
class Delivered:
    """The target has acknowledged the event that was sent."""


@dataclass(frozen=True)
class Failed:
    """The target has not taken the event that was sent."""

    reason: str
    is_final: bool = False
    """The target refuses this very event, and would do so again."""
    retry_after_s: float = 0.0
    """How long the target asks to be left alone."""


@dataclass(frozen=True)
class Evicted:
    """An event is no longer in the queue file, because newer ones needed its room."""

    id: str


@dataclass(frozen=True)
class AskAdmission:
    """Let the target admit the VM of this key when it has a slot."""

    key: str


@dataclass(frozen=True)
class SendLetter:
    """Send an event; report back with Delivered or Failed."""

    key: str
    id: str
    attempt: int


@dataclass(frozen=True)
class ForgetLetter:
    """Note in the queue file that the target has this event."""

    id: str


@dataclass(frozen=True)
class Bury:
    """Note in the queue file that this event is a dead letter of the target."""

    id: str
    reason: str


DeliveryEvent = Enqueued | Admitted | Delivered | Failed | Evicted
DeliveryAction = AskAdmission | SendLetter | ForgetLetter | Bury


@dataclass
class Delivery:
    """The events of one VM for one target; `key` is the VM's uuid, or "" for events of no VM."""

    key: str
    state: DeliveryState = DeliveryState.IDLE
    letters: deque[Letter] = field(default_factory=deque)
    """Those that are to be delivered, the oldest first; the first one may be under way."""
    attempts: int = 0
    """Of the oldest."""
    _evicted: bool = False
    """What is under way is no longer in the queue."""
    _ends_at: float = 0.0
    """When the pause ends."""
    _actions: list[DeliveryAction] = field(default_factory=list)

    def handle(self, event: DeliveryEvent | Tick, now: float) -> list[DeliveryAction]:
        """Return what follows from an event."""
        self._actions = []
        step(TRANSITIONS, self, event, now)
        return self._actions

    def deadline(self) -> float | None:
        """Return when the pause ends."""
        return self._ends_at if self.state is DeliveryState.WAITING else None

    def tick(self, now: float) -> list[DeliveryAction]:
        """Return what follows from the time."""
        return self.handle(Tick(), now) if self.state is DeliveryState.WAITING else []

    def begin(self, event: Enqueued, _: float) -> None:
        """Ask for admission: this is the only event."""
        self.letters.append(event.letter)
        self._next()

    def queue(self, event: Enqueued, _: float) -> None:
        """Let an event wait behind the others."""
        self.letters.append(event.letter)

    def send(self, _: Admitted, __: float) -> None:
        """Send the oldest."""
        self.state, self._evicted = DeliveryState.SENDING, False
        self.attempts += 1
        self._actions.append(SendLetter(self.key, self.letters[0].id, self.attempts))

    def delivered(self, _: Delivered, __: float) -> None:
        """Go on with the next event."""
        if not self._evicted:
            self._actions.append(ForgetLetter(self.letters[0].id))
        self._drop_oldest()

    def failed(self, event: Failed, now: float) -> None:
        """Pause before the next attempt, or give the event up."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.attempts - 1, 30), MAX_PAUSE_S)
        pause_s = max(pause_s, min(event.retry_after_s, MAX_PAUSE_S))
        if self._evicted:
            self._drop_oldest()
        elif event.is_final or now + pause_s >= self.letters[0].expires_at:
            self._actions.append(Bury(self.letters[0].id, event.reason))
            self._drop_oldest()
        else:
            self.state, self._ends_at = DeliveryState.WAITING, now + pause_s

    def evict_under_way(self, event: Evicted, _: float) -> None:
        """ForgetLetter an event, which may be the one that is under way."""
        if self.letters[0].id == event.id:
            self._evicted = True
        else:
            self._remove(event.id)

    def evict(self, event: Evicted, _: float) -> None:
        """ForgetLetter an event that is not under way."""
        if self.letters[0].id == event.id:
            self.attempts = 0
        self._remove(event.id)
        if not self.letters:
            self.state = DeliveryState.IDLE

    def wake(self, _: Tick, now: float) -> None:
        """Ask for admission again, if the pause is over."""
        if now >= self._ends_at:
            self._ask()

    def _remove(self, id: str) -> None:
        self.letters = deque(letter for letter in self.letters if letter.id != id)

    def _drop_oldest(self) -> None:
        self.letters.popleft()
        self._next()

    def _next(self) -> None:
        self.attempts = 0
        if self.letters:
            self._ask()
        else:
            self.state = DeliveryState.IDLE

    def _ask(self) -> None:
        self.state = DeliveryState.READY
        self._actions.append(AskAdmission(self.key))


def _then(*states: DeliveryState) -> frozenset[DeliveryState]:
    return frozenset(states)


_S = DeliveryState
TRANSITIONS: dict[tuple[DeliveryState, type], Transition[Delivery]] = {
    (_S.IDLE, Enqueued): Transition(Delivery.begin, _then(_S.READY)),
    (_S.READY, Enqueued): Transition(Delivery.queue, _then(_S.READY)),
    (_S.READY, Admitted): Transition(Delivery.send, _then(_S.SENDING)),
    (_S.READY, Evicted): Transition(Delivery.evict, _then(_S.READY, _S.IDLE)),
    (_S.SENDING, Enqueued): Transition(Delivery.queue, _then(_S.SENDING)),
    (_S.SENDING, Delivered): Transition(Delivery.delivered, _then(_S.IDLE, _S.READY)),
    (_S.SENDING, Failed): Transition(Delivery.failed, _then(_S.WAITING, _S.IDLE, _S.READY)),
    (_S.SENDING, Evicted): Transition(Delivery.evict_under_way, _then(_S.SENDING)),
    (_S.WAITING, Enqueued): Transition(Delivery.queue, _then(_S.WAITING)),
    (_S.WAITING, Evicted): Transition(Delivery.evict, _then(_S.WAITING, _S.IDLE)),
    (_S.WAITING, Tick): Transition(Delivery.wake, _then(_S.WAITING, _S.READY)),
}
