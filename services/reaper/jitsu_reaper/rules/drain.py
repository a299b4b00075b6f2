"""The step between deciding to stop a VM and stopping it, in which a query still saves it.

The reaper asks vmd to drain the VM. vmd publishes that, and from then on every dns replica asks vmd before it answers
for the VM. A replica acknowledges that with its next report, which has all its earlier use. Once all of them have
acknowledged it, and none has seen any use, nobody can have an answer that the reaper does not know of, and the VM may
be stopped.

    state     event         then               what happens
    asking    DrainBegun    waiting            vmd drains the VM now, and the clock of `drain_limit` runs
    asking    DrainEnded    over               vmd refused
    asking    Tick          asking             nothing: the call to vmd has a deadline of its own
    waiting   Used          over               TakeBackDrain: the VM is in use, or not enough is heard to know
    waiting   Acknowledged  stopping           AskStop: every replica has reported, and none of them any use
    waiting   DrainEnded    over               vmd says that the VM no longer drains: a query has saved it
    waiting   Tick          waiting, over      TakeBackDrain, if `drain_limit` has passed without every acknowledgement
    waiting, stopping  DrainBegun  waiting     an earlier request was answered late: vmd's latest drain is the one
    stopping  DrainEnded    over               vmd has stopped the VM, or refused
    stopping  Tick          stopping           nothing: the call to vmd has a deadline of its own

The policy (idle.py) owns one machine for each VM that drains, and forgets it when it is over. It does not try a drain
that came to nothing again within RETRY_S.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from jitsu_protocol.machine import Tick, Transition, step

RETRY_S = 5.0
"""While a VM drains, all queries for it go the long way; without a pause between two drains, all of them would."""


class DrainState(StrEnum):
    """Where a drain stands."""

    ASKING = "asking"
    WAITING = "waiting"
    STOPPING = "stopping"
    OVER = "over"


@dataclass(frozen=True)
class DrainBegun:
    """vmd has begun to drain a VM, and calls that drain by this id."""

    vm: str
    drain: str


@dataclass(frozen=True)
class DrainEnded:
    """A drain is over: vmd has stopped the VM, or refused to drain or to stop it, or a query has saved it."""

    vm: str
    reason: str = field(default="", compare=False)
    """Why it came to nothing; "" if vmd has stopped the VM, or has published that the drain is over."""


@dataclass(frozen=True)
class Used:
    """The VM that drains was used, or so little is heard that it may have been."""

    reason: str = field(default="it was used while it was being drained", compare=False)


@dataclass(frozen=True)
class Acknowledged:
    """Every replica has reported all its use from before the drain."""


@dataclass(frozen=True)
class AskDrain:
    """Ask vmd to drain a VM; report back with DrainBegun or DrainEnded."""

    vm: str


@dataclass(frozen=True)
class AskStop:
    """Ask vmd to stop a drained VM; report back with DrainEnded."""

    vm: str
    drain: str


@dataclass(frozen=True)
class TakeBackDrain:
    """Ask vmd to let the VM run on."""

    vm: str
    drain: str
    reason: str = field(default="", compare=False)
    """Why, for people."""


DrainEvent = DrainBegun | DrainEnded | Used | Acknowledged
DrainAction = AskDrain | AskStop | TakeBackDrain


@dataclass
class DrainMachine:
    """The drain of one VM."""

    vm: str
    limit_s: float
    for_room: bool = False
    """It is evicted: it has not been idle for its own `idle_timeout`, but another VM waits for its room."""
    state: DrainState = DrainState.ASKING
    drain: str = ""
    """The id that vmd has given it."""
    _limit_at: float = float("inf")
    _actions: list[DrainAction] = field(default_factory=list)

    def handle(self, event: DrainEvent | Tick, now: float) -> list[DrainAction]:
        """Return what follows from an event."""
        self._actions = []
        step(TRANSITIONS, self, event, now)
        return self._actions

    def deadline(self) -> float | None:
        """Return when the VM stays because not every replica has acknowledged its drain."""
        return self._limit_at if self.state is DrainState.WAITING else None

    def tick(self, now: float) -> list[DrainAction]:
        """Return what follows from the time."""
        return self.handle(Tick(), now)

    def begin(self, event: DrainBegun, now: float) -> None:
        """Wait for the replicas."""
        self.state, self.drain, self._limit_at = DrainState.WAITING, event.drain, now + self.limit_s

    def end(self, _: DrainEnded, __: float) -> None:
        """Be over."""
        self.state = DrainState.OVER

    def take_back(self, event: Used | Tick, _: float) -> None:
        """Let the VM run on."""
        self.state = DrainState.OVER
        late = f"not everybody has acknowledged it within {self.limit_s:g} s"
        self._actions.append(TakeBackDrain(self.vm, self.drain, event.reason if isinstance(event, Used) else late))

    def take_back_if_late(self, event: Tick, now: float) -> None:
        """Let the VM run on if the replicas take too long."""
        if now >= self._limit_at:
            self.take_back(event, now)

    def stop(self, _: Acknowledged, __: float) -> None:
        """Have the VM stopped."""
        self.state = DrainState.STOPPING
        self._actions.append(AskStop(self.vm, self.drain))

    def stay(self, _: Tick, __: float) -> None:
        """Wait for vmd's reply."""


def _then(*states: DrainState) -> frozenset[DrainState]:
    return frozenset(states)


_S = DrainState
TRANSITIONS: dict[tuple[DrainState, type], Transition[DrainMachine]] = {
    (_S.ASKING, DrainBegun): Transition(DrainMachine.begin, _then(_S.WAITING)),
    (_S.ASKING, DrainEnded): Transition(DrainMachine.end, _then(_S.OVER)),
    (_S.ASKING, Tick): Transition(DrainMachine.stay, _then(_S.ASKING)),
    (_S.WAITING, Used): Transition(DrainMachine.take_back, _then(_S.OVER)),
    (_S.WAITING, Acknowledged): Transition(DrainMachine.stop, _then(_S.STOPPING)),
    (_S.WAITING, DrainEnded): Transition(DrainMachine.end, _then(_S.OVER)),
    (_S.WAITING, Tick): Transition(DrainMachine.take_back_if_late, _then(_S.WAITING, _S.OVER)),
    (_S.WAITING, DrainBegun): Transition(DrainMachine.begin, _then(_S.WAITING)),
    (_S.STOPPING, DrainBegun): Transition(DrainMachine.begin, _then(_S.WAITING)),
    (_S.STOPPING, DrainEnded): Transition(DrainMachine.end, _then(_S.OVER)),
    (_S.STOPPING, Tick): Transition(DrainMachine.stay, _then(_S.STOPPING)),
}
