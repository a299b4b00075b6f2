"""Drives one state machine: events in, actions out, and one timer for its deadline.

                                deadline                   deadline passed
    no timer ────────────────────────────► waiting ───────────────────────────────► tick
                                              │ more than SUSPENDED_S late           ▲
                                              └────────► listening ──────────────────┘
                                                          LISTEN_S

A process that was suspended (its host swaps, its container is paused) finds its deadlines already past, and the very
messages that would have met them unread in its sockets. It therefore reads for a moment before it judges. It does so
once: a process that is always late judges too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.machine import Machine
    from jitsu_runtime.clock import Clock, Timer

SUSPENDED_S = 0.25
LISTEN_S = 0.2
"""Long enough for an exchange of a few steps: a probe that connects, or a request that another process answers."""

Event = TypeVar("Event")
Action = TypeVar("Action")


class Alarm:
    """The timer: calls `ring` at the time that was set last."""

    def __init__(self, ring: Callable[[], None], clock: Clock) -> None:
        self._ring = ring
        self._clock = clock
        self._timer: Timer | None = None
        self._deadline: float | None = None
        self._rings_at = 0.0
        self._listens = False

    def set(self, deadline: float | None) -> None:
        """Ring at a time of the clock, or soon if that is past; None: not at all."""
        if deadline == self._deadline:
            return
        self._deadline = deadline
        if self._listens and deadline is not None and deadline <= self._clock.now():
            return  # it is judged together with what is past already
        self._stop()
        if deadline is not None:
            self._ring_in(deadline - self._clock.now())

    def _stop(self) -> None:
        self._listens = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring_in(self, seconds: float) -> None:
        wait = max(0.0, seconds)
        self._rings_at = self._clock.now() + wait
        self._timer = self._clock.call_in(wait, self._due)

    def _due(self) -> None:
        if self._clock.now() - self._rings_at > SUSPENDED_S and not self._listens:
            self._listens = True
            self._ring_in(LISTEN_S)
            return
        self._timer = self._deadline = None
        self._listens = False
        self._ring()


class Driver(Generic[Event, Action]):
    """Feeds a machine with events, performs its actions, and calls its `tick` in time."""

    def __init__(
        self, machine: Machine[Event, Action], perform: Callable[[Sequence[Action]], None], clock: Clock
    ) -> None:
        self.machine = machine
        self._perform = perform
        self._clock = clock
        self._alarm = Alarm(self.tick, clock)

    def handle(self, event: Event) -> None:
        """Feed an event, and perform what follows from it; raises what the machine raises."""
        self.perform(self.machine.handle(event, self._clock.now()))

    def tick(self) -> None:
        """Let the machine look at the clock now."""
        self.perform(self.machine.tick(self._clock.now()))

    def perform(self, actions: Sequence[Action]) -> None:
        """Perform actions, then set the timer: the deadline may be another one."""
        self._perform(actions)
        self._alarm.set(self.machine.deadline())

    def close(self) -> None:
        """Stop the timer."""
        self._alarm.set(None)
