"""The machine of one VM: from a summon to ready, and from idle to off.

Driven by requests (SummonRequested, ...), what the world answers (StartReturned, ...) and the clock (`passed`, wanted
at `next_deadline`). It returns actions and knows no socket. Events and actions are in events.py.

Theory. At most one call to the hypervisor is under way per VM: none is begun while `calling`, so a summon that
comes at any moment joins or waits, and nothing is started twice (G1). A result carries the number
of the call it belongs to; one of an abandoned call only clears `calling`. What the hypervisor reports (GuestSeen) is
taken as true if it was asked after the last change of state, and else looked up again by the shell.

    state        event                      then
    at rest      SummonRequested            starting: armed first if the VM says so, or StartGuest; only for an
                                            operator if it backs off or is held
    starting     ArmReturned                StartGuest; if Synjitsu is armed and the VM says `answer = "armed"`,
                                            the queries that wait are answered
    starting     StartReturned, no error    booting; if Synjitsu is armed, everybody who waits is answered
    booting      HandoverTold               the mask is met, if nothing else is waited for
    booting      mask met                   ready; everybody who waits is answered
    starting, booting  error, death    failed: everybody who still waits is told why, Synjitsu turns away the clients
                                       of those who were answered; back off
    starting, booting  boot_limit passed, and the guest not seen    failed
    ready        DrainRequested, idle, not held    draining
    draining     SummonRequested, DrainCancelled, DRAIN_LIMIT_S passed, held    ready
    draining     StopApproved for this drain               stopping
    stopping     StopReturned               off or suspended; a summon that came in that time is asked again
    booting, ready, draining  its guest may not run on (identity.py, or it is removed)   stopping, as what it was
                                            started as; then asked again if a summon was under way
    any quiet    GuestSeen                  what the hypervisor says: adopted as booting, or off, suspended, paused;
                                            one that failed and is off stays failed

Whether a guest boots, is restored, or continues is not decided here: the hypervisor's backend looks at what is so when
it is called (README.md, "Saved state"). This machine may have missed a change.

The rows are `TRANSITIONS`; an event that has no entry for a state is illegal: it raises and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jitsu_protocol.model.errors import BackingOff, BootFailed, JitsuError, Refused, Unavailable
from jitsu_protocol.model.guests import difference, mode_of_stop
from jitsu_protocol.model.lifetimes import AnswerLifetimes
from jitsu_protocol.model.states import AT_REST, VmState, may_follow
from jitsu_protocol.model.vm_keys import AnswerTime, StopMode
from jitsu_vmd.rules.backoff import Backoff
from jitsu_vmd.rules.due import STOP_LIMIT_S, deadline
from jitsu_vmd.rules.events import (
    STATE_AFTER,
    STATE_FOUND,
    Action,
    AnswerSummons,
    ArmReturned,
    ArmSynjitsu,
    DisarmSynjitsu,
    DrainCancelled,
    DrainRequested,
    Event,
    GuestSeen,
    GuestState,
    HandoverTold,
    IllegalEvent,
    MaskSignalled,
    PublishState,
    RecordStart,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonAgain,
    SummonRequested,
    WatchGuest,
)
from jitsu_vmd.rules.masking import Masking
from jitsu_vmd.rules.timeline import SummonLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM

STOP_AGAIN_S = 5.0
"""When stopping a guest that may not run on has failed, it is tried again so much later."""

_S = VmState


@dataclass
class VmMachine:
    """One VM."""

    vm: VM
    """As it is configured; the last time, if it is `removed`."""
    started: VM | None = None
    """As its guest was started; None if it is off, or was started by others."""
    removed: bool = False
    """It is no longer configured."""
    hold: str = ""
    """Why only operators may start and stop it now (`jitsu hold`); "" if everybody may."""
    watches_keys: bool = False
    state: VmState = VmState.UNKNOWN
    since: float = 0.0
    """When the state was entered."""
    calling: bool = False
    """A start or stop call to the hypervisor is under way."""
    error: str = ""
    """Why the last boot or stop failed."""
    drain: str = ""
    used_at: float = 0.0
    """The last summon; or when the VM was found running."""
    started_at: float | None = None
    starts: int = 0
    boot_note: str = ""
    """What Synjitsu says of a guest that boots and has not shown itself at an address of the VM."""
    backoff: Backoff = field(default_factory=Backoff)
    summon: SummonLog | None = None
    """The summon under way."""
    finished: list[SummonLog] = field(default_factory=list)
    """Summons that ended since the shell last took them."""
    _call: int = 0
    _drains: int = 0
    _armed: bool = False
    _may_be_armed: bool = False
    """Synjitsu was asked to hold the addresses; it may do so though its acknowledgement came too late."""
    _handed_early: bool = False
    """Synjitsu has seen the guest before the start call returned."""
    _discard: bool = False
    """This start deletes the saved state first."""
    _is_there: bool = False
    """The guest was paused when this start began."""
    _stopping_mode: StopMode = StopMode.DESTROY
    _stop_again_at: float = 0.0
    _again: SummonRequested | None = None
    _lifetimes: AnswerLifetimes = field(default_factory=AnswerLifetimes)
    """Of the answers that dns gave after summons: the TTL may be lowered while they are valid (G3)."""
    _waiting_ttl: int = 0
    """The longest TTL of answers that are given when the VM is ready."""
    _masking: Masking | None = None
    _actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the TTL that is configured."""
        self._lifetimes.configured(self.vm.ttl, self.since)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event; raises Refused or Unavailable to the requester, IllegalEvent for a bug."""
        row = TRANSITIONS[self.state]
        if type(event) not in row:
            raise IllegalEvent(f"{type(event).__name__} while {self.state}")
        self._actions = []
        is_refused = self.removed or self.state in _MAY_STOP
        if isinstance(event, SummonRequested) and is_refused and (why := self.unwanted()):
            raise Unavailable(f"{self.vm.name}: {why}, and it has not stopped yet")
        if isinstance(event, SummonRequested) and event.trigger == "dns":
            self._note_answer(event.ttl, now)
        row[type(event)](self, event, now)
        return self._actions

    @property
    def guest(self) -> VM:
        """The VM as its guest was started: what all calls about that guest are made with."""
        return self.started or self.vm

    def unwanted(self) -> str:
        """Return why its guest may not run on, or be let run again; "" if it may."""
        if self.removed:
            return "it is no longer configured"
        return "" if self.started is None else difference(self.started, self.vm)

    def configure(self, vm: VM, now: float) -> list[Action]:
        """Take the VM as it is configured now."""
        self.vm, self.removed = vm, False
        self._lifetimes.configured(vm.ttl, now)
        self._actions = []
        self._stop_unwanted(now)
        return self._actions

    def remove(self, now: float) -> list[Action]:
        """Note that the VM is no longer configured."""
        self.removed, self._again = True, None
        self._actions = []
        self._answer(Unavailable(f"{self.vm.name} is no longer configured"))
        self._stop_unwanted(now)
        return self._actions

    def hold_for(self, reason: str, now: float) -> list[Action]:
        """Note that only operators may start and stop the VM from now on, or with "" that everybody may again."""
        self.hold, self._actions = reason, [PublishState()]
        if reason and self.state is _S.DRAINING:
            self._become_ready(now)
        return self._actions

    def _note_answer(self, ttl: int | None, now: float) -> None:
        """Note that dns answers a query now, or when the VM is ready, with this TTL; None: it does not tell."""
        self._lifetimes.answered(now, ttl, now)
        self._waiting_ttl = max(self._waiting_ttl, self._lifetimes.longest(now) if ttl is None else ttl)

    def passed(self, now: float) -> list[Action]:
        """Look at the clock."""
        self._actions = []
        if (deadline := self.next_deadline()) is None or now < deadline:
            return []
        self._stop_unwanted(now)
        if self._actions:
            return self._actions
        if self.state is _S.BOOTING:
            if not self._is_met(now):
                because = f": {self.boot_note}" if self.boot_note else ""
                self._fail(f"not ready {self.vm.boot_limit:g} s after its start{because}", now)
                self._stop(StopMode.DESTROY)
        elif self.state is _S.STARTING:
            self._fail(f"the hypervisor has not accepted the start within {self.vm.boot_limit:g} s", now)
        elif self.state is _S.DRAINING:
            self._become_ready(now)
        elif self.state is _S.STOPPING:
            self._fail(f"the hypervisor has not stopped it within {STOP_LIMIT_S:g} s", now)
        return self._actions

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        stops_at = self._stop_again_at if self.state in _MAY_STOP and self.unwanted() else None
        return deadline(self.state, self.since, self.vm.boot_limit, stops_at, self._masking)

    def runs(self) -> bool:
        """Say whether the guest is there, as far as is known."""
        return self.state in (_S.BOOTING, _S.READY, _S.DRAINING, _S.STOPPING)

    # --- summons ---

    def _begin(self, event: SummonRequested, now: float) -> None:
        wait = self.backoff.wait(now)
        if self.calling:
            self._answer(Unavailable(f"{self.vm.name}: the hypervisor still works on an earlier call"))
        elif (why := self.unwanted()) and not event.discard:
            hint = f"jitsu start {self.vm.name} --discard-saved-state boots it as it is configured now"
            self._answer(Unavailable(f"{self.vm.name} is {self.state}, and {why}", hint=hint))
        elif self.hold and event.trigger != "operator":
            self._answer(Refused(f"{self.vm.name} is {self.hold}"))
        elif wait > 0 and event.trigger != "operator":
            self._answer(BackingOff(f"{self.vm.name}: {self.error}", retry_after=wait))
        else:
            self._discard = event.discard
            self._is_there = self.state is _S.PAUSED and not event.discard
            self.summon = SummonLog.begin(event, now)
            self.used_at = now
            self._armed = self._may_be_armed = self._handed_early = False
            self.boot_note = ""
            self._enter(_S.STARTING, now)
            if self.vm.is_armed:
                self._call += 1
                self._may_be_armed = True
                self._actions.append(ArmSynjitsu(self._call, self._is_there))
            else:
                self._start(now)

    def _join(self, event: SummonRequested, now: float) -> None:
        self._cannot_discard(event)
        self.used_at = now
        if self.summon is not None:
            self.summon.joined += 1
        self._answer_if_armed()

    def _use(self, event: SummonRequested, now: float) -> None:
        self._cannot_discard(event)
        self.used_at = now
        if self.state is _S.DRAINING:
            self._become_ready(now)
        else:
            self._answer()

    def _begin_later(self, event: SummonRequested, _: float) -> None:
        self._cannot_discard(event)
        self._again = self._again or event

    def _cannot_discard(self, event: SummonRequested) -> None:
        """Refuse to discard what may be in use, unless it asks again for what is under way."""
        if event.discard and not (self._discard and self.summon is not None):
            raise Refused(
                f"{self.vm.name} is {self.state}: its saved state is not discarded", hint="stop it first, or wait"
            )

    def _armed_or_not(self, event: ArmReturned, now: float) -> None:
        if event.call != self._call or self.calling:
            return
        self._armed = event.armed
        self._stage("armed" if event.armed else "not armed", now)
        self._start(now)
        self._answer_if_armed()

    def _start(self, now: float) -> None:
        self._call += 1
        self.calling = True
        self._stage("start call", now)
        saved_as, self.started = self.guest, self.vm
        self._actions.append(StartGuest(self._call, self._discard, self._is_there, saved_as))

    def _started(self, event: StartReturned, now: float) -> None:
        if event.call != self._call:
            return
        self.calling = False
        self._stage("start returned", now)
        if event.error:
            self._fail(event.error, now)
            return
        self.starts += 1
        self._actions.append(RecordStart())
        self._boot(now, now)
        if self.state is _S.BOOTING:
            self._answer_if_armed()

    def _boot(self, started_at: float, now: float) -> None:
        self.started_at = started_at
        self._masking = Masking(self.vm, started_at, self.watches_keys, self._armed)
        if self._handed_early:
            self._handed_early = False
            self._masking.handed_over(now)
        self._enter(_S.BOOTING, now)
        self._stop_unwanted(now)
        if self.state is _S.BOOTING and not self._is_met(now) and self._masking.waits_for_signal():
            self._actions.append(WatchGuest(self._call))

    def _is_met(self, now: float) -> bool:
        """Say whether the masking rule is met; the VM is ready then."""
        met = None if self._masking is None else self._masking.met_at()
        if met is None or met > now:
            return False
        self._become_ready(now)
        return True

    def _signalled(self, event: MaskSignalled, now: float) -> None:
        if event.call != self._call or self._masking is None:
            return
        self._masking.signalled(now)
        self._stage("signal", now)
        self._is_met(now)

    def _handed_over_early(self, _: HandoverTold, now: float) -> None:
        self._handed_early = True
        self._stage("handed over", now)

    def _handed_over(self, _: HandoverTold, now: float) -> None:
        if self._masking is not None:
            self._masking.handed_over(now)
            self._stage("handed over", now)
            self._is_met(now)

    def _become_ready(self, now: float) -> None:
        self._enter(_S.READY, now)
        self.error = ""
        self.backoff.ready(now)
        self._disarm("ready")
        self._lifetimes.answered(now, self._waiting_ttl, now)
        self._waiting_ttl = 0
        self._finish_summon("ready", now)
        self._answer()

    def _fail(self, reason: str, now: float) -> None:
        self.error = reason
        self.backoff.failed(now)
        self._enter(_S.FAILED, now)
        self._disarm("failed")
        self._finish_summon(reason, now)
        self._again = None
        self._answer(BootFailed(f"{self.vm.name}: {reason}", retry_after=self.backoff.wait(now)))

    # --- stopping ---

    def _drain(self, event: DrainRequested, now: float) -> None:
        if self.hold:
            raise Refused(f"{self.vm.name} is {self.hold}")
        idle = now - self.used_at
        if idle < (self.vm.evict_timeout if event.for_room else self.vm.idle_timeout):
            raise Refused(f"{self.vm.name} is not idle: it was summoned {idle:.1f} s ago")
        if (left := self._lifetimes.until - now) > 0:
            raise Refused(f"{self.vm.name} is not idle: an answer that was given for it is valid for {left:.1f} s more")
        self._drains += 1
        self.drain = f"{self.vm.uuid}/{self._drains}/{now:.6f}"
        self._enter(_S.DRAINING, now)

    def _no_drain(self, _: DrainRequested, __: float) -> None:
        raise Refused(f"{self.vm.name} cannot drain: it is {self.state}")

    def _undrain(self, event: DrainCancelled, now: float) -> None:
        if event.drain == self.drain:
            self._become_ready(now)

    def _stop_drained(self, event: StopApproved, now: float) -> None:
        if event.drain != self.drain:
            self._too_late(event, now)
        self._enter(_S.STOPPING, now)
        self._stop(self.vm.stop_mode)

    def _stop_unwanted(self, now: float) -> None:
        """Stop a guest that may not run on; whoever waits for the VM is answered when it has started again."""
        if self.state not in _MAY_STOP or now < self._stop_again_at or not (why := self.unwanted()):
            return
        mode = self.guest.stop_mode if self.removed else mode_of_stop(self.guest)
        if self.summon is not None and not self.removed:
            self._again = SummonRequested(self.summon.trigger)
        self._enter(_S.STOPPING, now)
        self._disarm("failed")
        self._finish_summon(why, now)
        self._stop(mode)

    def _too_late(self, _: StopApproved, __: float) -> None:
        raise Refused(f"{self.vm.name} is not stopped: that drain is over")

    def _stop_now(self, _: StopRequested, now: float) -> None:
        self._enter(_S.STOPPING, now)
        self._disarm("failed")
        self._finish_summon("stopped by an operator", now)
        self._answer(Unavailable(f"{self.vm.name} was stopped by an operator"))
        self._stop(self.vm.stop_mode)

    def _cannot_stop(self, _: StopRequested, __: float) -> None:
        raise Unavailable(f"{self.vm.name} is {self.state} and cannot be stopped now", hint="try again in a moment")

    def _forgive(self, _: StopRequested, __: float) -> None:
        """Off already; an operator who says stop also clears the back-off."""
        self.backoff.forget()

    def _stop(self, mode: StopMode) -> None:
        self._call += 1
        self.calling = True
        self._stopping_mode = mode
        self._actions.append(StopGuest(self._call, mode))

    def _stopped(self, event: StopReturned, now: float) -> None:
        if event.call != self._call:
            return
        self.calling = False
        again, self._again = self._again, None
        if event.error:
            self._stop_again_at = now + STOP_AGAIN_S
            self._boot(now if self.started_at is None else self.started_at, now)
            self.error = f"could not be stopped: {event.error}"
            return
        self._stop_again_at = 0.0
        self.backoff.forget()
        self._enter(STATE_AFTER[self._stopping_mode], now)
        if again is not None:
            self._actions.append(SummonAgain(again))

    def _late(self, event: StartReturned | StopReturned, now: float) -> None:
        """Only note that the call has returned: the machine went on without it. The shell looks what is so."""
        if event.call == self._call:
            self.calling, self.since = False, now  # what was seen before this may be from before the call took effect

    # --- what the hypervisor says ---

    def _found(self, event: GuestSeen, now: float) -> None:
        """At rest or unknown: believe it."""
        if event.as_of < self.since or self.calling:
            return
        if event.guest is GuestState.RUNNING:
            self.used_at = now
            self.started = self.guest
            self._call += 1
            up = max(self.vm.response_delay, 0.0) if event.up_s is None else event.up_s
            self._boot(now - up, now)
        elif (found := STATE_FOUND[event.guest]) is _S.OFF and self.state is _S.FAILED:
            self.started = None
        elif self.state is not found:
            self._enter(found, now)
        again, self._again = self._again, None
        if again is not None:
            self._actions.append(SummonAgain(again))

    def _lost(self, event: GuestSeen, now: float) -> None:
        """Ready or draining: it may be gone."""
        if event.as_of < self.since or event.guest is GuestState.RUNNING:
            return
        if event.guest is GuestState.CRASHED:
            self.error = event.reason or "the VM crashed"
            self.backoff.died(now)
        self._enter(STATE_FOUND[event.guest], now)

    def _lost_in_boot(self, event: GuestSeen, now: float) -> None:
        if event.as_of >= self.since and event.guest is not GuestState.RUNNING:
            self._fail(event.reason or f"the VM is {event.guest} while it should boot", now)

    def _ignore(self, _: Event, __: float) -> None:
        """Nothing follows from this event in this state."""

    # --- common ---

    def _enter(self, state: VmState, now: float) -> None:
        if not may_follow(self.state, state):
            raise IllegalEvent(f"{self.state} may not be followed by {state}")
        self.state, self.since = state, now
        if state is not _S.BOOTING:
            self._masking = None
        if state is not _S.DRAINING:
            self.drain = ""
        if not self.runs():
            self.started_at = None
        if state is _S.OFF:
            self.started = None
        self._actions.append(PublishState())

    def _answer(self, error: JitsuError | None = None, *, armed: bool = False, early: bool = False) -> None:
        self._actions.append(AnswerSummons(error, armed, early))

    def _answer_if_armed(self) -> None:
        """Answer everybody who waits, if Synjitsu keeps what a client sends from now on."""
        early = self.state is not _S.BOOTING
        if self._armed and self.vm.use_synjitsu and (not early or self.vm.answer is AnswerTime.ARMED):
            self._answer(armed=True, early=early)

    def _disarm(self, outcome: Literal["ready", "failed"]) -> None:
        """Let Synjitsu go on. That a VM is ready it hears from the feed too, that a boot has failed it does not."""
        if self._armed or (self._may_be_armed and outcome == "failed"):
            self._actions.append(DisarmSynjitsu(outcome))
        self._armed = self._may_be_armed = False

    def _stage(self, name: str, now: float) -> None:
        if self.summon is not None:
            self.summon.stage(name, now)

    def _finish_summon(self, outcome: str, now: float) -> None:
        if self.summon is not None:
            self.summon.stage("ready" if outcome == "ready" else "failed", now)
            self.summon.outcome = outcome
            self.finished.append(self.summon)
            self.summon = None


_MAY_STOP = frozenset({_S.BOOTING, _S.READY, _S.DRAINING})

_M = VmMachine
_Row = dict[type[Any], "Callable[[VmMachine, Any, float], None]"]

_ALWAYS: _Row = {
    HandoverTold: _M._ignore,
    # What can come at any moment: late results, cancelled drains, and requests of other processes.
    ArmReturned: _M._ignore,
    StartReturned: _M._late,
    StopReturned: _M._late,
    MaskSignalled: _M._ignore,
    GuestSeen: _M._ignore,
    DrainRequested: _M._no_drain,
    DrainCancelled: _M._ignore,
    StopApproved: _M._too_late,
    StopRequested: _M._cannot_stop,
}
_AT_REST: _Row = {
    **_ALWAYS,
    SummonRequested: _M._begin,
    GuestSeen: _M._found,
    StopRequested: _M._forgive,
}

TRANSITIONS: dict[VmState, _Row] = {
    **dict.fromkeys(AT_REST, _AT_REST),
    _S.UNKNOWN: {**_ALWAYS, SummonRequested: _M._begin_later, GuestSeen: _M._found},
    _S.STARTING: {
        **_ALWAYS,
        SummonRequested: _M._join,
        ArmReturned: _M._armed_or_not,
        StartReturned: _M._started,
        HandoverTold: _M._handed_over_early,
    },
    _S.BOOTING: {
        **_ALWAYS,
        SummonRequested: _M._join,
        MaskSignalled: _M._signalled,
        HandoverTold: _M._handed_over,
        GuestSeen: _M._lost_in_boot,
        StopRequested: _M._stop_now,
    },
    _S.READY: {
        **_ALWAYS,
        SummonRequested: _M._use,
        GuestSeen: _M._lost,
        DrainRequested: _M._drain,
        StopRequested: _M._stop_now,
    },
    _S.DRAINING: {
        **_ALWAYS,
        SummonRequested: _M._use,
        GuestSeen: _M._lost,
        DrainRequested: _M._ignore,  # the drain under way is the answer
        DrainCancelled: _M._undrain,
        StopApproved: _M._stop_drained,
        StopRequested: _M._stop_now,
    },
    _S.STOPPING: {
        **_ALWAYS,
        SummonRequested: _M._begin_later,
        StopReturned: _M._stopped,
        StopRequested: _M._ignore,
    },
}
"""State -> event -> what is done. An event without an entry is illegal."""
