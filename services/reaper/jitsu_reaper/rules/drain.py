"""The step between deciding to stop a VM and stopping it, in which a query still saves it.

state       event                                    then
asking      vmd begins the drain                     waiting
asking      vmd refuses                              over; tried again after RETRY_S
waiting     activity reported                        CancelDrain; over
waiting     every replica honours the drain          AskStop; stopping
waiting     drain_limit passed                       CancelDrain; over; tried again after RETRY_S
waiting     vmd says: drains no more (a query)       over
stopping    vmd stops it, or refuses                 over
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RETRY_S = 5.0
"""A drain that came to nothing is not tried again sooner: replicas would answer cold all the time."""


class DrainState(StrEnum):
    """Where a drain stands."""

    ASKING = "asking"
    WAITING = "waiting"
    STOPPING = "stopping"


@dataclass(frozen=True)
class AskDrain:
    """Ask vmd to drain a VM; answer with `begun` or `ended`."""

    vm: str


@dataclass(frozen=True)
class AskStop:
    """Ask vmd to stop a drained VM; answer with `ended`."""

    vm: str
    drain: str


@dataclass(frozen=True)
class CancelDrain:
    """Tell vmd that the VM stays."""

    vm: str
    drain: str


Action = AskDrain | AskStop | CancelDrain


@dataclass
class DrainMachine:
    """The drain of one VM."""

    vm: str
    limit_s: float
    for_room: bool = False
    """It is evicted: it has not been idle for its own `idle_timeout`, but another VM waits for its room."""
    state: DrainState = DrainState.ASKING
    drain: str = ""
    deadline: float = float("inf")

    def begun(self, drain: str, now: float) -> None:
        """Note that vmd has begun."""
        self.state, self.drain, self.deadline = DrainState.WAITING, drain, now + self.limit_s

    def look(self, *, idle: bool, honoured: bool, now: float) -> Action | None:
        """Return what follows from what is known now; CancelDrain ends the drain."""
        if self.state is not DrainState.WAITING:
            return None
        if not idle or now >= self.deadline:
            return CancelDrain(self.vm, self.drain)
        if honoured:
            self.state = DrainState.STOPPING
            return AskStop(self.vm, self.drain)
        return None
