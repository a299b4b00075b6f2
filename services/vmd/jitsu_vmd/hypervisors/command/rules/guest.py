"""What is believed of one VM that commands drive, and when its state is asked for next.

All that is known of such a VM is what its commands say, and they say it late: a computer that was sent a magic packet
is off for half a minute more. So a start that has succeeded is believed for a while (`appears_within`), although the
state is still reported as off; then it has failed, and the reason says so. As soon as the VM has been seen to run, or
is reported as crashed, reports are believed again.

A report is believed if it was asked for after the last command that changes the VM has ended. What is older, or was
asked for while such a command ran, may be from before it. If the state cannot be found out, the VM is believed to be
as it was last; of one that was never seen nothing is believed, and no start is tried.

The state is asked for every `interval`. After each command it is asked for soon, and then less and less often, because
that is when it changes.

    state            event            then                        what happens
    unknown          StateFound       same, off, running, paused, suspended  it is reported to vmd, if it is believed
    off, running, paused, suspended  StateFound  off, running, paused, suspended  the same, if it is another
    appearing        StateFound       same, running, off          running: it is there. crashed: off, with the reason.
                                                                  Anything else is what was expected
    appearing        Tick             same, off                   off, if appears_within has passed; AskState
    any              StateNotFound    same                        the reason is noted, and it is asked for again later
    any              CommandBegan     same                        reports are not believed until it has ended
    any              StartSucceeded   appearing                   its state is asked for soon
    appearing        StopSucceeded    running                     it may be off from now on: reports are believed
    others           StopSucceeded    same                        its state is asked for soon
    any              CommandReturned  same                        its state is asked for soon
    any              WatchHinted      same                        the same, unless that is under way
    others           Tick             same                        AskState, if it is time
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from jitsu_vmd.hypervisors.command.rules.reports import StateReport

SOON_S = 0.25
"""After a command has ended, its VM's state is asked for that much later, and then each time twice as much later."""
BELIEVED_INTERVALS = 3


class CommandVmState(StrEnum):
    """What is believed of a VM."""

    UNKNOWN = "unknown"
    OFF = "off"
    APPEARING = "appearing"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"


_S = CommandVmState
_BELIEVED = {
    GuestState.OFF: _S.OFF,
    GuestState.CRASHED: _S.OFF,
    GuestState.RUNNING: _S.RUNNING,
    GuestState.PAUSED: _S.PAUSED,
    GuestState.SUSPENDED: _S.SUSPENDED,
}
SHOWN = {
    _S.OFF: GuestState.OFF,
    _S.APPEARING: GuestState.RUNNING,
    _S.RUNNING: GuestState.RUNNING,
    _S.PAUSED: GuestState.PAUSED,
    _S.SUSPENDED: GuestState.SUSPENDED,
}
"""What vmd is told; of one that is unknown, nothing."""


@dataclass(frozen=True)
class StateFound:
    """A command has reported the state, and was asked at this time."""

    report: StateReport
    asked_at: float


@dataclass(frozen=True)
class StateNotFound:
    """The command that reports the state has failed."""

    reason: str


@dataclass(frozen=True)
class CommandBegan:
    """A command that changes the VM was started."""


@dataclass(frozen=True)
class StartSucceeded:
    """`start` or `resume` has ended with status 0, at this time."""

    at: float


@dataclass(frozen=True)
class StopSucceeded:
    """A command that stops the VM in some way has ended with status 0."""


@dataclass(frozen=True)
class CommandReturned:
    """A command that changes the VM has failed."""


@dataclass(frozen=True)
class WatchHinted:
    """Something may have happened to the VM."""


CommandVmEvent = (
    StateFound | StateNotFound | CommandBegan | StartSucceeded | StopSucceeded | CommandReturned | WatchHinted
)


@dataclass(frozen=True)
class AskState:
    """Run the command that reports the state; answer with StateFound or StateNotFound."""


@dataclass(frozen=True)
class ReportChange:
    """Have vmd look at the VM."""


CommandVmAction = AskState | ReportChange


@dataclass
class Questions:
    """When the state of a VM is asked for."""

    at: float = 0.0
    """When it is asked for next."""
    wait: float = 0.0
    """How long it is between two questions now."""
    is_under_way: bool = False


@dataclass
class CommandVm:
    """One VM."""

    interval: float
    appears_within: float
    state: CommandVmState = _S.UNKNOWN
    reason: str = ""
    """Why it does not run, if that is known."""
    trouble: str = ""
    """Why its state cannot be found out now."""
    seen_at: float = 0.0
    """When a report was believed last."""
    believes_from: float = 0.0
    """A report that was asked for earlier is not believed."""
    appeared_by: float = 0.0
    """While it is appearing: until then it may be off."""
    in_command: bool = False
    questions: Questions = field(default_factory=Questions)
    actions: list[CommandVmAction] = field(default_factory=list)

    def handle(self, event: CommandVmEvent, now: float) -> list[CommandVmAction]:
        """Handle an event."""
        return self._step(event, now)

    def deadline(self) -> float | None:
        """Return when its state is to be asked for, or when it has had its time to appear."""
        times = [] if self.questions.is_under_way else [self.questions.at]
        if self.state is _S.APPEARING:
            times.append(self.appeared_by)
        return min(times, default=None)

    def tick(self, now: float) -> list[CommandVmAction]:
        """Ask for the state if it is time, and give up a VM that has not appeared."""
        return self._step(Tick(), now)

    def unseen(self, now: float) -> str:
        """Return why nothing is believed of the VM, "" if something is."""
        if self.state is _S.UNKNOWN:
            busy = "a command that an earlier vmd has run goes on" if self.in_command else "it has not answered yet"
            return self.trouble or f"its state is not known: {busy}"
        is_old = now >= self.seen_at + BELIEVED_INTERVALS * self.interval
        return self.trouble if is_old and self.state is not _S.APPEARING else ""

    def _step(self, event: Any, now: float) -> list[CommandVmAction]:
        step(TRANSITIONS, self, event, now)
        actions, self.actions = self.actions, []
        return actions

    # --- for the handlers ---

    def believe(self, state: CommandVmState, reason: str) -> None:
        """Go over to a state, and report that if it is another."""
        if self.state is not state:
            self.actions.append(ReportChange())
        self.state, self.reason = state, reason

    def ask_soon(self, now: float) -> None:
        """Ask for the state a moment from now, and then less and less often."""
        wait = min(SOON_S, self.interval)
        self.questions = Questions(now + wait, wait)

    def ask_later(self, now: float) -> None:
        """Ask for the state again: after the interval, if nothing has just been done."""
        wait = min(2 * self.questions.wait if self.questions.wait else self.interval, self.interval)
        self.questions = Questions(now + wait, wait)


# --- the handlers ---


def _is_believed(vm: CommandVm, event: StateFound) -> bool:
    return not vm.in_command and event.asked_at >= vm.believes_from


def _found(vm: CommandVm, event: StateFound, now: float) -> None:
    vm.ask_later(now)
    if _is_believed(vm, event):
        vm.trouble, vm.seen_at = "", now
        vm.believe(_BELIEVED[event.report.state], event.report.reason)


def _found_appearing(vm: CommandVm, event: StateFound, now: float) -> None:
    vm.ask_later(now)
    if not _is_believed(vm, event):
        return
    vm.trouble, vm.seen_at = "", now
    if event.report.state is GuestState.RUNNING:
        vm.state, vm.reason = _S.RUNNING, ""  # vmd believes that already
    elif event.report.state is GuestState.CRASHED:
        vm.believe(_S.OFF, event.report.reason or "its state is crashed")


def _not_found(vm: CommandVm, event: StateNotFound, now: float) -> None:
    vm.ask_later(now)
    vm.trouble = event.reason


def _began(vm: CommandVm, _: CommandBegan, __: float) -> None:
    vm.in_command = True


def _started(vm: CommandVm, event: StartSucceeded, now: float) -> None:
    vm.in_command, vm.believes_from = False, now
    vm.appeared_by = event.at + vm.appears_within
    vm.state, vm.reason = _S.APPEARING, ""
    vm.ask_soon(now)


def _stopped_appearing(vm: CommandVm, event: StopSucceeded, now: float) -> None:
    vm.state = _S.RUNNING
    _returned(vm, event, now)


def _returned(vm: CommandVm, _: CommandReturned | StopSucceeded, now: float) -> None:
    vm.in_command, vm.believes_from = False, now
    vm.ask_soon(now)


def _hinted(vm: CommandVm, _: WatchHinted, now: float) -> None:
    """Ask soon. However often that is said, it puts no question off."""
    questions = vm.questions
    questions.wait = min(SOON_S, vm.interval)
    if not questions.is_under_way:
        questions.at = min(questions.at, now + questions.wait)


def _clock(vm: CommandVm, _: Tick, now: float) -> None:
    if not vm.questions.is_under_way and now >= vm.questions.at:
        vm.questions.is_under_way = True
        vm.actions.append(AskState())


def _clock_appearing(vm: CommandVm, event: Tick, now: float) -> None:
    if now >= vm.appeared_by:
        because = vm.trouble or "its state is still off"
        vm.seen_at = now
        vm.believe(_S.OFF, f"{vm.appears_within:g} s after its start {because}")
    _clock(vm, event, now)


_SEEN = (_S.OFF, _S.RUNNING, _S.PAUSED, _S.SUSPENDED)
_ANY_SEEN = frozenset(_SEEN)
TRANSITIONS: dict[tuple[CommandVmState, type[Any]], Transition[CommandVm]] = {
    (_S.UNKNOWN, StateFound): Transition(_found, _ANY_SEEN | {_S.UNKNOWN}),
    **{(state, StateFound): Transition(_found, _ANY_SEEN) for state in _SEEN},
    (_S.APPEARING, StateFound): Transition(_found_appearing, frozenset({_S.APPEARING, _S.RUNNING, _S.OFF})),
    (_S.APPEARING, Tick): Transition(_clock_appearing, frozenset({_S.APPEARING, _S.OFF})),
    **{(state, StateNotFound): Transition(_not_found, frozenset({state})) for state in _S},
    **{(state, CommandBegan): Transition(_began, frozenset({state})) for state in _S},
    **{(state, StartSucceeded): Transition(_started, frozenset({_S.APPEARING})) for state in _S},
    (_S.APPEARING, StopSucceeded): Transition(_stopped_appearing, frozenset({_S.RUNNING})),
    **{(state, StopSucceeded): Transition(_returned, frozenset({state})) for state in _S if state is not _S.APPEARING},
    **{(state, CommandReturned): Transition(_returned, frozenset({state})) for state in _S},
    **{(state, WatchHinted): Transition(_hinted, frozenset({state})) for state in _S},
    **{(state, Tick): Transition(_clock, frozenset({state})) for state in _S if state is not _S.APPEARING},
}
