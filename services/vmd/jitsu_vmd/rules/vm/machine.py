"""What all handlers of one VM's machine use: its parts, and the steps that several of them take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jitsu_protocol.machine import IllegalEvent
from jitsu_protocol.model.errors import BootFailed
from jitsu_protocol.model.guests import mode_of_stop
from jitsu_protocol.model.states import VmState, may_follow
from jitsu_protocol.model.vm_keys import AnswerTime, StopMode
from jitsu_vmd.rules.backoff import Backoff
from jitsu_vmd.rules.events import (
    Action,
    AnswerSummons,
    DisarmSynjitsu,
    PublishState,
    StartGuest,
    StopGuest,
    SummonRequested,
    WatchGuest,
)
from jitsu_vmd.rules.masking import Masking
from jitsu_vmd.rules.vm.parts import Boot, Drains, HypervisorCall, OwnUsage, Summons, Terms

if TYPE_CHECKING:
    from jitsu_protocol.model.errors import JitsuError
    from jitsu_protocol.model.vm import VM

_S = VmState
MAY_STOP = frozenset({_S.BOOTING, _S.READY, _S.DRAINING})
"""In these a guest that may not go on running is stopped."""


@dataclass
class VmCore:
    """One VM. summon.py adds the table, and what drives it."""

    terms: Terms
    state: VmState = VmState.UNKNOWN
    since: float = 0.0
    """When the state was entered."""
    error: str = ""
    """Why the last boot or stop failed."""
    call: HypervisorCall = field(default_factory=HypervisorCall)
    boot: Boot = field(default_factory=Boot)
    backoff: Backoff = field(default_factory=Backoff)
    summons: Summons = field(default_factory=Summons)
    usage: OwnUsage = field(default_factory=OwnUsage)
    drains: Drains = field(default_factory=Drains)
    again: SummonRequested | None = None
    """What is to be asked again when the guest that stops has stopped."""
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the TTL that is configured."""
        self.usage.lifetimes.configured(self.vm.ttl, self.since)

    @property
    def vm(self) -> VM:
        """The VM as it is configured."""
        return self.terms.vm

    @property
    def guest(self) -> VM:
        """The VM as its guest was started."""
        return self.terms.guest

    def addresses(self) -> list[str]:
        """Return the addresses that its guest was started with, as far as is known."""
        return [] if self.terms.started is None else [str(address) for address in self.terms.started.addresses]

    def runs(self) -> bool:
        """Say whether the guest is there, as far as is known."""
        return self.state in (_S.BOOTING, _S.READY, _S.DRAINING, _S.STOPPING)

    def is_busy(self) -> bool:
        """Say whether its guest is there or may come to be, or a call about it is under way."""
        return self.runs() or self.state is _S.STARTING or self.call.is_under_way

    def enter(self, state: VmState, now: float) -> None:
        """Enter a state, and forget what belongs to others only."""
        if not may_follow(self.state, state):
            raise IllegalEvent(f"{self.state} may not be followed by {state}")
        before, self.state, self.since = self.state, state, now
        self.summons.causes.entered(before, state, now, self.error)
        if state is not _S.BOOTING:
            self.boot.masking = None
        if state is not _S.DRAINING:
            self.drains.current = ""
        if not self.runs():
            self.boot.started_at = None
        if state is _S.OFF:
            self.terms.started = None
        self.actions.append(PublishState())

    # --- to those who wait, and to Synjitsu ---

    def answer(self, error: JitsuError | None = None, *, armed: bool = False, early: bool = False) -> None:
        """Answer everybody who waits; `early`: only queries."""
        self.actions.append(AnswerSummons(error, armed, early))

    def answer_if_armed(self) -> None:
        """Answer everybody who waits, if Synjitsu keeps what a client sends from now on."""
        early = self.state is not _S.BOOTING
        if self.boot.is_armed and self.vm.use_synjitsu and (not early or self.vm.answer is AnswerTime.ARMED):
            self.answer(armed=True, early=early)

    def disarm(self, outcome: Literal["ready", "failed"]) -> None:
        """Let Synjitsu go on. The feed tells it too that a VM is ready, but not that a boot has failed."""
        boot = self.boot
        if boot.is_armed or (boot.may_be_armed and outcome == "failed"):
            self.actions.append(DisarmSynjitsu(outcome))
        boot.is_armed = boot.may_be_armed = False

    # --- calls to the hypervisor ---

    def start(self, now: float) -> None:
        """Call the hypervisor to start the guest."""
        self.call.number += 1
        self.call.is_under_way = True
        self.stage("start call", now)
        saved_as, self.terms.started = self.guest, self.vm
        self.actions.append(StartGuest(self.call.number, self.call.discards, self.call.guest_is_there, saved_as))

    def stop(self, mode: StopMode) -> None:
        """Call the hypervisor to stop the guest."""
        self.call.number += 1
        self.call.is_under_way = True
        self.call.stop_mode = mode
        self.actions.append(StopGuest(self.call.number, mode))

    def stop_unwanted(self, now: float) -> bool:
        """Stop a guest that may not go on running; returns whether that was so.

        Whoever waits for the VM is answered when it has started again.
        """
        if self.state not in MAY_STOP or now < self.call.stop_again_at or not (why := self.terms.unwanted()):
            return False
        mode = self.guest.stop_mode if self.terms.removed else mode_of_stop(self.guest)
        if self.summons.current is not None and not self.terms.removed:
            self.again = SummonRequested(self.summons.current.trigger, by=self.summons.causes.asked_by())
        self.summons.causes.will_stop("removed" if self.terms.removed else "changed", note=why)
        self.enter(_S.STOPPING, now)
        self.disarm("failed")
        self.finish_summon(why, now)
        self.stop(mode)
        return True

    # --- the course of a boot ---

    def begin_boot(self, started_at: float, now: float) -> None:
        """Enter booting with a guest that runs since `started_at`, and go on to ready if nothing is waited for."""
        boot = self.boot
        boot.started_at = started_at
        boot.masking = Masking(self.vm, started_at, self.terms.watches_keys, boot.is_armed)
        if boot.is_handed_early:
            boot.is_handed_early = False
            boot.masking.handed_over(now)
        self.enter(_S.BOOTING, now)
        if not self.stop_unwanted(now) and not self.is_met(now) and boot.masking.waits_for_signal():
            self.actions.append(WatchGuest(self.call.number))

    def is_met(self, now: float) -> bool:
        """Say whether the masking rule is met; the VM is ready then."""
        met = None if self.boot.masking is None else self.boot.masking.met_at()
        if met is None or met > now:
            return False
        self.become_ready(now)
        return True

    def become_ready(self, now: float) -> None:
        """Enter ready, and answer everybody."""
        self.enter(_S.READY, now)
        self.error = ""
        self.backoff.ready(now)
        self.disarm("ready")
        self.usage.ready(now)
        self.finish_summon("ready", now)
        self.answer()

    def fail(self, reason: str, now: float) -> None:
        """Enter failed, and tell everybody why."""
        self.error = reason
        self.backoff.failed(now)
        self.enter(_S.FAILED, now)
        self.disarm("failed")
        self.finish_summon(reason, now)
        self.again = None
        self.answer(BootFailed(f"{self.vm.name}: {reason}", retry_after=self.backoff.wait(now)))

    # --- the timeline of a summon ---

    def stage(self, name: str, now: float) -> None:
        """Note that a stage of the summon under way has been passed."""
        if self.summons.current is not None:
            self.summons.current.stage(name, now)

    def finish_summon(self, outcome: str, now: float) -> None:
        """Note how the summon under way has ended."""
        if (log := self.summons.current) is not None:
            log.stage("ready" if outcome == "ready" else "failed", now)
            log.outcome = outcome
            if outcome == "ready":
                self.summons.boot_s = now - dict(log.stages)["summon"]
            self.summons.finished.append(log)
            self.summons.current = None
