"""What a VM's machine does because it is idle, unwanted, or to be stopped by an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.due import STOP_LIMIT_S
from jitsu_vmd.rules.events import STATE_AFTER, PublishState, SummonAgain

if TYPE_CHECKING:
    from jitsu_protocol.machine import Tick
    from jitsu_vmd.rules.events import (
        DrainCancelled,
        DrainRequested,
        OrdersChanged,
        Reconfigured,
        Removed,
        StartReturned,
        StopApproved,
        StopRequested,
        StopReturned,
    )
    from jitsu_vmd.rules.vm.machine import VmCore

STOP_AGAIN_S = 5.0
"""When stopping a guest that may not go on running has failed, it is tried again so much later."""

_S = VmState


# --- the drain ---


def drain(machine: VmCore, event: DrainRequested, now: float) -> None:
    """Begin to drain; raises Refused if the VM is in use by vmd's own account."""
    name, vm = machine.vm.name, machine.vm
    if why := machine.terms.orders.forbid_drain(for_room=event.for_room):
        raise Refused(f"{name} is {why}")
    idle = now - machine.usage.used_at
    if idle < (vm.evict_timeout if event.for_room else vm.idle_timeout):
        raise Refused(f"{name} is not idle: it was summoned {idle:.1f} s ago")
    if (left := machine.usage.lifetimes.until - now) > 0:
        raise Refused(f"{name} is not idle: an answer that was given for it is valid for {left:.1f} s more")
    machine.drains.count += 1
    machine.enter(_S.DRAINING, now)
    machine.drains.current = f"{vm.uuid}/{machine.drains.count}/{now:.6f}"


def refuse_drain(machine: VmCore, _: DrainRequested, __: float) -> None:
    """Only a VM that is ready can drain."""
    raise Refused(f"{machine.vm.name} cannot drain: it is {machine.state}")


def cancel_drain(machine: VmCore, event: DrainCancelled, now: float) -> None:
    """Take the drain back, if it is the one under way."""
    if event.drain == machine.drains.current:
        machine.become_ready(now)


def stop_drained(machine: VmCore, event: StopApproved, now: float) -> None:
    """Stop the VM: all replicas honour this drain."""
    if event.drain != machine.drains.current:
        refuse_stop(machine, event, now)
    machine.summons.causes.will_stop("idle")
    machine.enter(_S.STOPPING, now)
    machine.stop(machine.vm.stop_mode)


def refuse_stop(machine: VmCore, _: StopApproved, __: float) -> None:
    """The drain that was approved is over: the VM has been used since."""
    raise Refused(f"{machine.vm.name} is not stopped: that drain is over")


def drain_is_late(machine: VmCore, _: Tick, now: float) -> None:
    """Take a drain back that nobody has finished."""
    if not machine.stop_unwanted(now):
        machine.become_ready(now)


# --- an operator ---


def stop_now(machine: VmCore, event: StopRequested, now: float) -> None:
    """Stop the VM, and tell everybody who waits for it."""
    machine.summons.causes.will_stop("operator", event.by)
    machine.enter(_S.STOPPING, now)
    machine.disarm("failed")
    machine.finish_summon("stopped by an operator", now)
    machine.answer(Unavailable(f"{machine.vm.name} was stopped by an operator"))
    machine.stop(machine.vm.stop_mode)


def refuse_to_stop(machine: VmCore, _: StopRequested, __: float) -> None:
    """The VM is in a state in which no call can be made."""
    raise Unavailable(f"{machine.vm.name} is {machine.state} and cannot be stopped now", hint="try again in a moment")


def forgive(machine: VmCore, _: StopRequested, __: float) -> None:
    """It is off already; an operator who stops it also clears the back-off."""
    machine.backoff.forget()


# --- the result of the call ---


def stopped(machine: VmCore, event: StopReturned, now: float) -> None:
    """The hypervisor has stopped the guest, or could not."""
    if event.call != machine.call.number:
        return
    machine.call.is_under_way = False
    again, machine.again = machine.again, None
    if event.error is not None:
        machine.call.stop_again_at = now + STOP_AGAIN_S
        started_at = machine.boot.started_at
        machine.begin_boot(now if started_at is None else started_at, now)
        machine.error = f"could not be stopped: {event.error}"
        return
    machine.call.stop_again_at = 0.0
    machine.backoff.forget()
    machine.enter(STATE_AFTER[machine.call.stop_mode], now)
    if again is not None:
        machine.actions.append(SummonAgain(again))


def stop_is_late(machine: VmCore, _: Tick, now: float) -> None:
    """The hypervisor has not replied to the stop call in time."""
    machine.fail(f"the hypervisor has not stopped it within {STOP_LIMIT_S:g} s", now)


def note_late_result(machine: VmCore, event: StartReturned | StopReturned, now: float) -> None:
    """Only note that the call has returned: the machine went on without it. The shell looks at what is so."""
    if event.call == machine.call.number:
        # What was seen before this may be from before the call took effect.
        machine.call.is_under_way, machine.since = False, now


# --- the configuration ---


def reconfigure(machine: VmCore, event: Reconfigured, now: float) -> None:
    """The VM is configured like this now: stop a guest that may not go on as it is."""
    machine.terms.vm, machine.terms.removed = event.vm, False
    machine.usage.lifetimes.configured(event.vm.ttl, now)
    machine.stop_unwanted(now)


def remove(machine: VmCore, _: Removed, now: float) -> None:
    """The VM is no longer configured."""
    machine.terms.removed, machine.again = True, None
    machine.answer(Unavailable(f"{machine.vm.name} is no longer configured"))
    machine.stop_unwanted(now)


def order(machine: VmCore, event: OrdersChanged, now: float) -> None:
    """Note what is asked for now. A drain ends if the VM is to stay up."""
    machine.terms.orders = event.orders
    machine.actions.append(PublishState())
    if machine.state is _S.DRAINING and event.orders.forbid_drain(for_room=False):
        machine.become_ready(now)


def stop_if_unwanted(machine: VmCore, _: Tick, now: float) -> None:
    """It is time to try again to stop a guest that may not go on running."""
    machine.stop_unwanted(now)
