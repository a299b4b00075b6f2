"""When vmd asks its hypervisors what machines say of themselves, and when it reports that to the store.

The store is told everything each time (labels.py), so that nothing is lost by a crash on either side. It is told only
if something differs from what it has acknowledged, if it has refused something and the tree has changed since, or
if it has not acknowledged anything yet.

    state    event            then               what happens
    resting  HintHeard        resting            the hypervisors are asked SETTLE_S later, at most once in GAP_S
    resting  TreeMoved        resting            if a VM that labels describe has changed, or a machine is refused: the
                                                 same, and the store is told whatever is found
    resting  Tick             resting, asking    AskMachines, if the time has come
    asking   MachinesListed   resting, telling   TellStore, or nothing differs
    asking   HintHeard        asking             asked again afterwards
    asking   TreeMoved        asking             as while resting, afterwards
    asking   Tick             asking             nothing: the calls have limits of their own
    telling  HintHeard        telling            asked again afterwards
    telling  TreeMoved        telling            as while resting, afterwards
    telling  Tick             telling            nothing
    telling  StoreAgreed      resting            what it refuses is shown; asked again in LOOK_S
    telling  StoreFailed      resting            told again in RETRY_S

Without label zones nothing is asked. The store is told once that labels describe nothing: it may have VMs of a time
when they did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_vmd.rules.labels import LabelFault, LabelReading, LabelRules, read

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.labels import Answers

LOOK_S = 10.0
"""As often as vmd looks at all guests: a machine about which no hint came is found by then."""
SETTLE_S = 0.2
"""`docker compose up` makes several machines one after the other."""
GAP_S = 1.0
"""A busy engine has hints all the time, and a list of a thousand machines costs a tenth of a second."""
RETRY_S = 2.0


class LabellingState(StrEnum):
    """What vmd is doing about labels."""

    RESTING = "resting"
    ASKING = "asking"
    TELLING = "telling"


@dataclass(frozen=True)
class HintHeard:
    """A hypervisor has reported that something has changed."""


@dataclass(frozen=True)
class TreeMoved:
    """VMs were configured differently, by whomever."""

    vms: Collection[str]
    """Their UUIDs."""


@dataclass(frozen=True)
class MachinesListed:
    """The hypervisors have answered, or have not within their limit."""

    answers: Answers


@dataclass(frozen=True)
class StoreAgreed:
    """The store has what it was told, except for what it refuses (the VM's UUID -> why)."""

    refusals: Mapping[str, str]


@dataclass(frozen=True)
class StoreFailed:
    """The store has not answered, or has refused everything."""

    reason: str


@dataclass(frozen=True)
class AskMachines:
    """Ask these connections at the same time for their machines; report back with MachinesListed."""

    connections: tuple[str, ...]


@dataclass(frozen=True)
class TellStore:
    """Report to the store what labels say; report back with StoreAgreed or StoreFailed."""

    reading: LabelReading


LabellingEvent = HintHeard | TreeMoved | MachinesListed | StoreAgreed | StoreFailed
LabellingAction = AskMachines | TellStore


@dataclass
class LabellingMachine:
    """The labels of one vmd."""

    rules: LabelRules
    known: Callable[[], Mapping[str, VM]]
    """Returns the VMs of this host, by UUID."""
    state: LabellingState = LabellingState.RESTING
    faults: Mapping[str, LabelFault] = field(default_factory=dict)
    """What is refused, by the UUID of the VM."""
    trouble: str = ""
    """Why the store does not have what labels say; "" if it does."""
    reading: LabelReading = field(default_factory=LabelReading)
    _told: LabelReading | None = None
    _must_tell: bool = True
    _asked_at: float = float("-inf")
    _due: float = 0.0
    _again: bool = False
    _actions: list[LabellingAction] = field(default_factory=list)

    def handle(self, event: LabellingEvent | Tick, now: float) -> list[LabellingAction]:
        """Return what follows from an event."""
        self._actions = []
        step(TRANSITIONS, self, event, now)
        return self._actions

    def deadline(self) -> float | None:
        """Return when the hypervisors are asked next."""
        return self._due if self.state is LabellingState.RESTING and self._due < float("inf") else None

    def tick(self, now: float) -> list[LabellingAction]:
        """Return what follows from the time."""
        return self.handle(Tick(), now)

    def ask_soon(self, _: HintHeard, now: float) -> None:
        """Ask when things have settled."""
        if self.rules.connections:
            self._due = min(self._due, max(now + SETTLE_S, self._asked_at + GAP_S))

    def ask_after(self, _: HintHeard, __: float) -> None:
        """Ask again when the present round is over."""
        self._again = True

    def tree_moved(self, event: TreeMoved, now: float) -> None:
        """Tell the store again, if that may have another outcome."""
        if self._concerns(event):
            self._must_tell = True
            self.ask_soon(HintHeard(), now)

    def tree_moved_meanwhile(self, event: TreeMoved, _: float) -> None:
        """Do the same after the present round."""
        if self._concerns(event):
            self._must_tell = self._again = True

    def _concerns(self, event: TreeMoved) -> bool:
        """Say whether labels may have to say something about a change: not if they have brought it about."""
        return bool(self.faults) or any(self._differs(vm) for vm in event.vms)

    def _differs(self, vm: str) -> bool:
        return vm in self.reading.vms and vm not in self.known()

    def ask_if_due(self, _: Tick, now: float) -> None:
        """Ask, if the time has come."""
        if now >= self._due:
            self._asked_at, self._again = now, False
            self.state = LabellingState.ASKING
            self._actions.append(AskMachines(self.rules.connections))

    def stay(self, _: Tick, __: float) -> None:
        """Wait for an answer."""

    def listed(self, event: MachinesListed, now: float) -> None:
        """Tell the store, if anything differs from what it has."""
        self.reading, faults = read(event.answers, self.rules, self.known())
        of_store = {vm: fault for vm, fault in self.faults.items() if vm in self.reading.vms}
        self.faults = of_store | faults
        if self._must_tell or self._told != self.reading:
            self.state = LabellingState.TELLING
            self._must_tell = False
            self._actions.append(TellStore(self.reading))
            self.faults = faults
        else:
            self._rest(now + LOOK_S, now)

    def agreed(self, event: StoreAgreed, now: float) -> None:
        """Show what the store refuses."""
        self._told, self.trouble = self.reading, ""
        refused = {vm: self._fault(vm, reason) for vm, reason in event.refusals.items()}
        self.faults = {**self.faults, **refused}
        self._rest(now + LOOK_S if self.rules.connections else float("inf"), now)

    def _fault(self, vm: str, reason: str) -> LabelFault:
        """Return a refusal of the store with the machine that it is about."""
        known, leaves = self.known().get(vm), self.reading.vms.get(vm, {})
        name = leaves.get("config/name/0") or (known.name if known is not None else vm)
        return LabelFault(name, leaves.get("config/hypervisor/0", ""), reason)

    def failed(self, event: StoreFailed, now: float) -> None:
        """Tell it again later."""
        self.trouble, self._must_tell = event.reason, True
        self._rest(now + RETRY_S, now)

    def _rest(self, due: float, now: float) -> None:
        self.state, self._due = LabellingState.RESTING, due
        if self._again:
            self.ask_soon(HintHeard(), now)


RESTING, ASKING, TELLING = LabellingState.RESTING, LabellingState.ASKING, LabellingState.TELLING
TRANSITIONS: dict[tuple[LabellingState, type], Transition[LabellingMachine]] = {
    (RESTING, HintHeard): Transition(LabellingMachine.ask_soon, frozenset({RESTING})),
    (RESTING, TreeMoved): Transition(LabellingMachine.tree_moved, frozenset({RESTING})),
    (RESTING, Tick): Transition(LabellingMachine.ask_if_due, frozenset({RESTING, ASKING})),
    (ASKING, MachinesListed): Transition(LabellingMachine.listed, frozenset({RESTING, TELLING})),
    (ASKING, HintHeard): Transition(LabellingMachine.ask_after, frozenset({ASKING})),
    (TELLING, HintHeard): Transition(LabellingMachine.ask_after, frozenset({TELLING})),
    (ASKING, TreeMoved): Transition(LabellingMachine.tree_moved_meanwhile, frozenset({ASKING})),
    (TELLING, TreeMoved): Transition(LabellingMachine.tree_moved_meanwhile, frozenset({TELLING})),
    (ASKING, Tick): Transition(LabellingMachine.stay, frozenset({ASKING})),
    (TELLING, Tick): Transition(LabellingMachine.stay, frozenset({TELLING})),
    (TELLING, StoreAgreed): Transition(LabellingMachine.agreed, frozenset({RESTING})),
    (TELLING, StoreFailed): Transition(LabellingMachine.failed, frozenset({RESTING})),
}
