"""Every order in which the events of one summon can come: what waiting callers and Synjitsu receive.

The machine is put into a small world: calls that are under way and may return now or later, rightly or not; a guest
that may show itself or die; a clock that may pass. All orders are followed from there, and two that lead to
the same world are followed once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.events import (
    AnswerSummons,
    ArmReturned,
    ArmSynjitsu,
    DisarmSynjitsu,
    DrainRequested,
    Event,
    GuestHandedOver,
    GuestSeen,
    GuestState,
    PublishState,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonAgain,
    SummonRequested,
)
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_protocol.messages import Trigger

_MAY_BE_ARMED = {VmState.STARTING, VmState.BOOTING}
_IS_OVER = {VmState.OFF, VmState.FAILED, VmState.SUSPENDED, VmState.PAUSED}


@dataclass
class World:
    """One VM, and all that surrounds it."""

    machine: VmMachine
    now: float = 0.0
    arming: int | None = None
    """The Arm under way; Synjitsu has not read it yet, and reads a Disarm after it."""
    call: StartGuest | StopGuest | None = None
    armed: bool = False
    """Synjitsu holds the addresses."""
    waiting: list[Trigger] = field(default_factory=list)
    owed: bool = False
    """A query was answered before the guest was there: its client is yet to be served or turned away."""
    left: dict[str, int] = field(default_factory=dict)
    """Event -> how often it may still come."""
    early_answers: int = 0

    def key(self) -> str:
        """Return what makes two worlds the same: the time passed is not part of it, nor are the calls' numbers."""
        machine = self.machine
        masking = machine.boot.masking
        return repr(
            (
                machine.state,
                machine.call.is_under_way,
                machine.error,
                machine.boot.is_armed,
                machine.boot.is_handed_early,
                machine.again is not None,
                machine.backoff.failures,
                machine.backoff.wait(self.now) > 0,
                masking and (masking.armed, masking.handed_over_at is not None),
                self.arming is not None,
                self.arming == machine.call.number,
                type(self.call),
                self.call and self.call.call == machine.call.number,
                self.armed,
                sorted(self.waiting),
                self.owed,
                self.left,
            )
        )

    def events(self) -> Iterator[tuple[str, Event | None]]:
        """Yield what can happen now; None is that time passes up to the machine's deadline."""
        triggers: tuple[Trigger, ...] = ("dns", "operator")
        for trigger in triggers:
            if self.left.get(trigger):
                yield trigger, SummonRequested(trigger)
        if self.arming is not None:
            yield "arm", ArmReturned(self.arming, armed=True)
            yield "no arm", ArmReturned(self.arming, armed=False)
            yield "late arm", ArmReturned(self.arming, armed=False)
        if isinstance(self.call, StartGuest):
            yield "start", StartReturned(self.call.call)
            yield "no start", StartReturned(self.call.call, BootFailed("no memory"))
        if isinstance(self.call, StopGuest):
            yield "stop", StopReturned(self.call.call)
            yield "no stop", StopReturned(self.call.call, BootFailed("it hangs"))
        if self.armed:
            yield "handover", GuestHandedOver()
        if self.left.get("seen"):
            for guest in GuestState:
                yield "seen", GuestSeen(guest, self.now)
        if self.left.get("operator stops"):
            yield "operator stops", StopRequested()
        if self.machine.state is VmState.READY and self.left.get("drain"):
            yield "drain", DrainRequested()
        if self.machine.state is VmState.DRAINING:
            yield "stop drained", StopApproved(self.machine.drains.current)
        if self.machine.deadline() is not None and self.left.get("time"):
            yield "time", None

    def after(self, name: str, event: Event | None) -> World:
        """Return the world in which that has happened."""
        world = copy.copy(self)
        world.machine = copy.copy(self.machine)
        memo = {id(self.machine.vm): self.machine.vm}
        for part in ("terms", "call", "boot", "backoff", "summons", "usage", "drains"):
            setattr(world.machine, part, copy.deepcopy(getattr(self.machine, part), memo))
        world.machine.summons.finished = []
        world.waiting, world.left = list(self.waiting), dict(self.left)
        if name in world.left:
            world.left[name] -= 1
        if isinstance(event, ArmReturned):
            world.arming, world.armed = None, name != "no arm"
        if isinstance(event, StartReturned | StopReturned):
            world.call = None
        if isinstance(event, SummonRequested):
            world.waiting.append(event.trigger)
        if isinstance(event, DrainRequested):
            world.now += 1000.0  # long after the last use
        world.do(event)
        return world

    def do(self, event: Event | None) -> None:
        machine = self.machine
        try:
            if event is None:
                deadline = machine.deadline()
                assert deadline is not None
                self.now = max(self.now, deadline)
                actions = machine.tick(self.now)
            else:
                actions = machine.handle(event, self.now)
        except (Refused, Unavailable):
            if isinstance(event, SummonRequested):
                self.waiting.remove(event.trigger)
            return
        for action in actions:
            match action:
                case ArmSynjitsu(call):
                    self.arming = call
                case StartGuest() | StopGuest():
                    assert self.call is None, "two calls at once"
                    self.call = action
                case DisarmSynjitsu():
                    self.arming, self.armed, self.owed = None, False, False
                case PublishState() if machine.state is VmState.READY:
                    self.armed = self.owed = False  # Synjitsu follows the feed
                case AnswerSummons(error, armed, early):
                    self._answered(error, armed=armed, early=early)
                case SummonAgain(again):
                    self.do(again)
                case _:
                    pass

    def _answered(self, error: JitsuError | None, *, armed: bool, early: bool) -> None:
        if error is None and armed:
            assert self.armed, "answered though nobody keeps what the client sends"
            self.owed = True
        if early:
            assert self.call is None or isinstance(self.call, StartGuest)
            self.early_answers += self.waiting.count("dns")
        self.waiting = [trigger for trigger in self.waiting if early and trigger != "dns"]

    def check(self) -> None:
        """Hold what must be so in every world."""
        machine = self.machine
        if machine.state in _IS_OVER:
            assert not self.armed, f"{machine.state}, and Synjitsu still holds the addresses"
            assert not self.owed, f"{machine.state}, and the clients of an early answer were not turned away"
            assert not self.waiting or machine.again is not None, f"{machine.state}, and {self.waiting} still wait"
        if machine.state is VmState.READY:
            assert not self.waiting
            assert not self.armed
        if self.armed:
            assert machine.state in _MAY_BE_ARMED, f"Synjitsu is armed while {machine.state}"
        if self.waiting:
            assert self.arming is not None or self.call or machine.deadline() is not None, "nobody will answer"


@pytest.mark.exhaustive
@pytest.mark.parametrize("answer", ["armed", "started"])
@pytest.mark.parametrize("found", [GuestState.OFF, GuestState.PAUSED])
def test_g2_in_every_order_of_events_everybody_is_answered_and_nobody_is_left_with_a_failed_vm(
    answer: str, found: GuestState
) -> None:
    machine = VmMachine(Terms(make_vm(use_synjitsu="true", answer=answer, boot_limit="30")))
    machine.handle(GuestSeen(found, 0.0), 0.0)
    left = {"dns": 2, "operator": 1, "seen": 1, "operator stops": 1, "drain": 1, "time": 2}
    first = World(machine, left=left)
    seen, todo, early = {first.key()}, [first], 0
    while todo:
        world = todo.pop()
        for name, event in world.events():
            after = world.after(name, event)
            after.check()
            early += after.early_answers
            if (key := after.key()) not in seen:
                seen.add(key)
                todo.append(after)
    assert len(seen) > 1000
    assert (early > 0) is (answer == "armed")
