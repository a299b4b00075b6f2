"""The rows of handover.py's table: a function for each, which is given the machine, the event and the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.events import GuestReplied, OpenPort, SendFrame, ShutPort, SynPassed, Wake
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.handover_state import (
    CLEAR_AFTER_S,
    FOUND_LIMIT_S,
    PASSING_S,
    REFUSE_S,
    SETTLE_S,
    HandoverState,
)
from jitsu_synjitsu.rules.kept import Item
from jitsu_synjitsu.rules.presence import AddressState, answers

if TYPE_CHECKING:
    from jitsu_protocol.machine import Tick
    from jitsu_synjitsu.rules.events import (
        ArmRequested,
        AskedFor,
        Claimed,
        FailureReported,
        GuestFrameSeen,
        ManagedReported,
        PacketSeen,
        ProbeAnswered,
        ReadyReported,
        UdpRefused,
        WakeRefused,
    )
    from jitsu_synjitsu.rules.handover import Handover


# --- rows of several states ---


def ignore(machine: Handover, event: object, now: float) -> None:
    """Do nothing."""


def begin_boot(machine: Handover, event: ArmRequested, now: float) -> None:
    """Hold the addresses for a boot."""
    machine.state = HandoverState.ARMED
    machine.limit = event.limit
    boot = machine.boot
    boot.is_armed, boot.by_xenstore, boot.is_ready, boot.is_reported = True, event.by_xenstore, False, False
    boot.probed_port = event.probed_port
    machine.guest.heard_at, machine.guest.foreign = None, b""
    machine.all_absent()
    machine.asking.begin(now)
    machine.actions.append(ShutPort(machine.vm, machine.guest.mac))
    for item in machine.kept.of(machine.vm):
        machine.write(item, now)
    machine.announce_and_ask(now)


def answer(machine: Handover, event: AskedFor, now: float) -> None:
    """Answer who asks for an address."""
    asker = event.asker
    is_probe = not any(asker.sender)  # whether the address is free (RFC 5227, RFC 4862)
    is_absent = asker.target in machine.absent()
    if machine.state is not HandoverState.WATCHING and (is_probe or not is_absent):
        return
    machine.actions.append(SendFrame(frames.answer(machine.guest.mac, asker.target, asker), "answer"))
    if not is_probe:
        machine.asking.waits(asker.target, asker, now)


# --- while watching ---


def defend(machine: Handover, _: Claimed, now: float) -> None:
    """Stand by an address that another machine claims."""
    machine.actions += machine.asking.defend(machine.guest.mac, machine.addresses, now)


def wake(machine: Handover, event: PacketSeen, now: float) -> None:
    """Keep a packet, and have the VM started."""
    machine.keep(event, now)
    if not machine.boot.is_wanted:
        machine.boot.is_wanted = True
        machine.actions.append(Wake(machine.vm, event.seen))


def not_woken(machine: Handover, _: WakeRefused, __: float) -> None:
    """Reject what was kept: vmd does not start the VM."""
    machine.boot.is_wanted = False
    machine.reject_kept()


def runs_already(machine: Handover, event: GuestFrameSeen, now: float) -> None:
    """Look at a frame of a guest that is said to be off."""
    if now < machine.since + SETTLE_S or not machine.shows(event.seen):
        return
    if not any(True for _ in machine.kept.of(machine.vm)):
        machine.state = HandoverState.RELEASED
        return
    machine.guest.mac, machine.guest.heard_at = event.seen.source, now
    machine.state, machine.limit = HandoverState.ARMED, now + FOUND_LIMIT_S
    machine.asking.heard(now)
    machine.appear(event.seen.sender, now)
    machine.finish_if_handed(now)


def is_up(machine: Handover, _: ReadyReported, now: float) -> None:
    """Hand everything over: the VM runs."""
    machine.state, machine.limit, machine.boot.is_reported = HandoverState.ARMED, now + FOUND_LIMIT_S, True
    for address in machine.addresses:
        machine.appear(address, now)
    machine.finish_if_handed(now)


def let_go(machine: Handover, _: FailureReported, __: float) -> None:
    """Hold the addresses no longer."""
    machine.state = HandoverState.RELEASED
    machine.reject_kept()


# --- while armed ---


def arm_again(machine: Handover, event: ArmRequested, now: float) -> None:
    """Move the limit, or begin another boot."""
    if machine.boot.is_ready:
        begin_boot(machine, event, now)
    machine.limit, machine.boot.is_armed = event.limit, True


def keep(machine: Handover, event: PacketSeen, now: float) -> None:
    """Keep a packet, unless it is the guest's."""
    presence = machine.presences[event.seen.target]
    item = Item(event.frame, event.seen, now)
    if presence.state is AddressState.ABSENT:
        machine.keep(event, now)
        machine.write(item, now)
    elif event.seen.kind is Kind.TCP and now < presence.since + PASSING_S:
        machine.actions += presence.handle(SynPassed(item), now)


def guest_frame(machine: Handover, event: GuestFrameSeen, now: float) -> None:
    """Look at a frame of the guest."""
    seen, guest = event.seen, machine.guest
    guest.mac = seen.source
    if guest.heard_at is None:
        guest.heard_at = now
        machine.asking.heard(now)
    presence = machine.presences.get(seen.sender)
    if presence is None:
        is_announced = seen.kind in (Kind.ASKS, Kind.TELLS) and any(seen.sender)
        if is_announced and not frames.is_link_local(seen.sender):
            guest.foreign = seen.sender
        return
    if presence.state is AddressState.ABSENT:
        machine.kept.take_if(machine.vm, lambda item: answers(seen, item.seen))
        if machine.shows(seen) and not (machine.boot.by_xenstore and len(seen.sender) == 4):
            machine.appear(seen.sender, now)
    else:
        machine.actions += presence.handle(GuestReplied(seen), now)
    machine.finish_if_handed(now)


def probe_answered(machine: Handover, event: ProbeAnswered, now: float) -> None:
    """Look at a segment of the guest."""
    if event.reply.sender in machine.presences:
        machine.actions += machine.presences[event.reply.sender].handle(event, now)
        machine.finish_if_handed(now)


def udp_refused(machine: Handover, event: UdpRefused, now: float) -> None:
    """Look at an ICMP error of the guest."""
    if event.reply.sender in machine.presences:
        machine.actions += machine.presences[event.reply.sender].handle(event, now)


def managed(machine: Handover, _: ManagedReported, now: float) -> None:
    """Leave IPv4 to a guest that takes its connections from Xenstore."""
    if not machine.boot.by_xenstore:
        return
    machine.kept.take_if(machine.vm, machine.is_written)
    machine.clear(CLEAR_AFTER_S)
    for address in machine.absent():
        if len(address) == 4:
            machine.appear(address, now)
    machine.finish_if_handed(now)


def ready(machine: Handover, _: ReadyReported, now: float) -> None:
    """Ask for the addresses at which the guest has not shown itself."""
    machine.clear(0.0)
    machine.boot.is_ready = True
    machine.actions += machine.asking.ask(machine.absent(), now)


def fail(machine: Handover, _: object, now: float) -> None:
    """Reject what is left: the boot has failed."""
    has_failed = not machine.boot.is_reported
    if not has_failed or machine.guest.heard_at is not None:
        machine.guest.missing = tuple(machine.absent())
    machine.actions.append(OpenPort(machine.vm))
    machine.state = HandoverState.REFUSING if has_failed else HandoverState.RELEASED
    machine.limit = now + REFUSE_S
    machine.clear(0.0)
    machine.reject_kept()
    for presence in machine.presences.values():
        machine.reject(presence.take_left())
    if has_failed:
        machine.all_absent()


def look(machine: Handover, tick: Tick, now: float) -> None:
    """Do what is due."""
    if now >= machine.limit:
        fail(machine, tick, now)
        return
    machine.announce_and_ask(now)
    for presence in machine.presences.values():
        machine.actions += presence.tick(now)
    machine.finish_if_handed(now)


# --- while refusing ---


def refuse(machine: Handover, event: PacketSeen, now: float) -> None:
    """Reject a packet."""
    machine.reject([Item(event.frame, event.seen, now)])


def is_back(machine: Handover, event: GuestFrameSeen, _: float) -> None:
    """See whether the guest is there after all."""
    if machine.shows(event.seen):
        machine.state = HandoverState.RELEASED


def release(machine: Handover, _: ReadyReported, __: float) -> None:
    """Leave the addresses to the guest."""
    machine.state = HandoverState.RELEASED


def end_refusing(machine: Handover, _: Tick, now: float) -> None:
    """Stop to refuse after a while."""
    if now >= machine.limit:
        machine.state = HandoverState.RELEASED
