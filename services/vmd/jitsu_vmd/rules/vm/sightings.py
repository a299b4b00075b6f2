"""What a VM's machine does because of what the hypervisor reports of its guest.

A report is believed if it was asked for after the last change of state; what is older may be from before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.events import STATE_FOUND, Event, GuestState, SummonAgain

if TYPE_CHECKING:
    from jitsu_vmd.rules.events import GuestSeen, GuestUnseen
    from jitsu_vmd.rules.vm.machine import VmCore

_S = VmState


def found(machine: VmCore, event: GuestSeen, now: float) -> None:
    """Believe what is reported of a guest that was at rest or unknown: adopt one that runs."""
    if event.as_of < machine.since or machine.call.is_under_way:
        return
    if event.guest is GuestState.RUNNING:
        machine.usage.used_at = now
        machine.terms.started = machine.guest
        machine.call.number += 1
        up_s = max(machine.vm.response_delay, 0.0) if event.up_s is None else event.up_s
        machine.begin_boot(now - up_s, now)
    elif (state := STATE_FOUND[event.guest]) is _S.OFF and machine.state is _S.FAILED:
        machine.terms.started = None
    elif machine.state is not state:
        machine.enter(state, now)
    again, machine.again = machine.again, None
    if again is not None:
        machine.actions.append(SummonAgain(again))


def lost(machine: VmCore, event: GuestSeen, now: float) -> None:
    """A guest that was up may be gone."""
    if event.as_of < machine.since or event.guest is GuestState.RUNNING:
        return
    if event.guest is GuestState.CRASHED:
        machine.error = event.reason or "the VM crashed"
        machine.backoff.died(now)
        machine.summons.causes.will_stop("crashed", note=machine.error)
    machine.enter(STATE_FOUND[event.guest], now)


def lost_from_sight(machine: VmCore, event: GuestUnseen, now: float) -> None:
    """Whether a guest that was up still runs is no longer known."""
    if event.as_of >= machine.since:
        machine.enter(_S.UNKNOWN, now)


def lost_in_boot(machine: VmCore, event: GuestSeen, now: float) -> None:
    """A guest that should boot may be gone."""
    if event.as_of >= machine.since and event.guest is not GuestState.RUNNING:
        machine.fail(event.reason or f"the VM is {event.guest} while it should boot", now)


def ignore(_: VmCore, __: Event, ___: float) -> None:
    """Nothing follows from this event in this state."""
