"""What a VM's machine does because of a summon, and of what follows from it until the VM is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BackingOff, Refused, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import ArmSynjitsu, RecordStart
from jitsu_vmd.rules.timeline import SummonLog

if TYPE_CHECKING:
    from jitsu_protocol.machine import Tick
    from jitsu_vmd.rules.events import ArmReturned, GuestHandedOver, MaskSignalled, StartReturned, SummonRequested
    from jitsu_vmd.rules.vm.machine import VmCore

_S = VmState


def begin(machine: VmCore, event: SummonRequested, now: float) -> None:
    """Start the VM, or answer why it may not start now."""
    wait = machine.backoff.wait(now)
    if machine.call.is_under_way:
        machine.answer(Unavailable(f"{machine.vm.name}: the hypervisor still works on an earlier call"))
    elif (why := machine.terms.unwanted()) and not event.discard:
        hint = f"jitsu start {machine.vm.name} --discard-saved-state boots it as it is configured now"
        machine.answer(Unavailable(f"{machine.vm.name} is {machine.state}, and {why}", hint=hint))
    elif forbidden := machine.terms.orders.forbid(event.trigger):
        machine.answer(Refused(f"{machine.vm.name} is {forbidden}"))
    elif wait > 0 and event.trigger != "operator":
        machine.answer(BackingOff(f"{machine.vm.name}: {machine.error}", retry_after=wait))
    else:
        _begin_start(machine, event, now)


def _begin_start(machine: VmCore, event: SummonRequested, now: float) -> None:
    call = machine.call
    call.discards = event.discard
    call.guest_is_there = machine.state is _S.PAUSED and not event.discard
    machine.summons.current = SummonLog.begin(event, now)
    machine.usage.used_at = now
    machine.boot.begin()
    machine.summons.causes.begins(event, now)
    machine.enter(_S.STARTING, now)
    if machine.vm.is_armed:
        call.number += 1
        machine.boot.may_be_armed = True
        machine.actions.append(ArmSynjitsu(call.number, call.guest_is_there))
    else:
        machine.start(now)


def join(machine: VmCore, event: SummonRequested, now: float) -> None:
    """Wait for the boot that is under way (G1)."""
    _refuse_to_discard(machine, event)
    machine.usage.used_at = now
    if machine.summons.current is not None:
        machine.summons.current.joined += 1
        machine.summons.causes.joined()
    machine.answer_if_armed()


def use(machine: VmCore, event: SummonRequested, now: float) -> None:
    """Answer for a VM that is ready; one that drains is no longer drained."""
    _refuse_to_discard(machine, event)
    machine.usage.used_at = now
    if machine.state is _S.DRAINING:
        machine.become_ready(now)
    else:
        machine.answer()


def begin_later(machine: VmCore, event: SummonRequested, _: float) -> None:
    """Ask again when it is known what the guest does, or when it has stopped."""
    _refuse_to_discard(machine, event)
    machine.again = machine.again or event


def _refuse_to_discard(machine: VmCore, event: SummonRequested) -> None:
    """Refuse to discard what may be in use, unless it asks again for what is under way."""
    if event.discard and not (machine.call.discards and machine.summons.current is not None):
        raise Refused(
            f"{machine.vm.name} is {machine.state}: its saved state is not discarded", hint="stop it first, or wait"
        )


def armed_or_not(machine: VmCore, event: ArmReturned, now: float) -> None:
    """Start the guest now that Synjitsu has replied, or has not in time."""
    if event.call != machine.call.number or machine.call.is_under_way:
        return
    machine.boot.is_armed = event.armed
    machine.stage("armed" if event.armed else "not armed", now)
    machine.start(now)
    machine.answer_if_armed()


def started(machine: VmCore, event: StartReturned, now: float) -> None:
    """The hypervisor has accepted or refused the start."""
    if event.call != machine.call.number:
        return
    machine.call.is_under_way = False
    machine.stage("start returned", now)
    if event.error is not None:
        machine.fail(str(event.error), now)
        return
    machine.summons.starts += 1
    machine.actions.append(RecordStart())
    machine.begin_boot(now, now)
    if machine.state is _S.BOOTING:
        machine.answer_if_armed()


def signalled(machine: VmCore, event: MaskSignalled, now: float) -> None:
    """The port answers, or the key is there."""
    if event.call != machine.call.number or machine.boot.masking is None:
        return
    machine.boot.masking.signalled(now)
    machine.stage("signal", now)
    machine.is_met(now)


def handed_over_early(machine: VmCore, _: GuestHandedOver, now: float) -> None:
    """Synjitsu has seen the guest before the start call returned: remember it for the boot."""
    machine.boot.is_handed_early = True
    machine.stage("handed over", now)


def handed_over(machine: VmCore, _: GuestHandedOver, now: float) -> None:
    """Synjitsu has seen the guest."""
    if machine.boot.masking is not None:
        machine.boot.masking.handed_over(now)
        machine.stage("handed over", now)
        machine.is_met(now)


def start_is_late(machine: VmCore, _: Tick, now: float) -> None:
    """The hypervisor has not replied to the start call in time."""
    machine.fail(f"the hypervisor has not accepted the start within {machine.vm.boot_limit:g} s", now)


def boot_is_late(machine: VmCore, _: Tick, now: float) -> None:
    """The delay of the masking rule is over, or the time that the boot had."""
    if machine.stop_unwanted(now) or machine.is_met(now):
        return
    because = f": {machine.boot.note}" if machine.boot.note else ""
    machine.fail(f"not ready {machine.vm.boot_limit:g} s after its start{because}", now)
    machine.stop(StopMode.DESTROY)
