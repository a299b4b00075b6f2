"""The contract of every state machine in the suite, and the table that each of them opens with.

A machine decides, and touches nothing: it has no socket, no clock and no task. It is given an event, which is named in
the past tense because it has happened, and the time. It returns actions, which are named in the imperative because
somebody else is to perform them. Between events it says when it wants to look at the clock again:

    handle(event, now)  ->  actions         something has happened
    deadline()          ->  time or None    call `tick` at that time, unless another event comes first
    tick(now)           ->  actions         the deadline has passed, or may have

Times are seconds on one clock that never goes back. `handle` and `tick` may be called at any time and in any order; a
`tick` before the deadline changes nothing. The runtime's driver.py calls them for one machine and keeps the one timer.

What a machine does in which state stands in one table, `TRANSITIONS`. Its keys are a state and the type of an event;
its values are the function that handles it and the states that may follow. `step` looks the row up, calls the function,
and holds it to those states. An event that has no row is a mistake of the caller: it raises `IllegalEvent` and changes
nothing. The docstring of the machine's module has the same table for people. tests/test_machines.py compares the two,
and the diagrams in docs/ are made from the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from jitsu_protocol.model.errors import Bug

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import StrEnum

EventT_contra = TypeVar("EventT_contra", contravariant=True)
ActionT_co = TypeVar("ActionT_co", covariant=True)
M = TypeVar("M", bound="HasState")


class Machine(Protocol[EventT_contra, ActionT_co]):
    """The methods of a machine that the driver calls."""

    def handle(self, event: EventT_contra, now: float) -> Sequence[ActionT_co]:
        """Return the actions that follow from an event; raises IllegalEvent, or an error for the caller."""

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called; None: not before the next event."""

    def tick(self, now: float) -> Sequence[ActionT_co]:
        """Return the actions that follow from the time."""


class HasState(Protocol):
    """A machine with a table."""

    state: Any


class IllegalEvent(Bug):
    """An event came that the table does not have for this state, or a state followed that it does not allow."""


@dataclass(frozen=True)
class Tick:
    """The event of the rows for the clock."""


@dataclass(frozen=True)
class Transition(Generic[M]):
    """One row of a table."""

    handle: Callable[[M, Any, float], None]
    """Is given the machine, the event and the time."""
    then: frozenset[StrEnum]
    """The states that may follow; that it stays in its state has to be said too."""


def step(table: Mapping[tuple[Any, Any], Transition[M]], machine: M, event: object, now: float) -> None:
    """Handle an event as the table says."""
    before = machine.state
    row = table.get((before, type(event)))
    if row is None:
        raise IllegalEvent(f"{type(event).__name__} while {before}")
    row.handle(machine, event, now)
    if machine.state not in row.then:
        raise IllegalEvent(f"{type(event).__name__} led from {before} to {machine.state}")
