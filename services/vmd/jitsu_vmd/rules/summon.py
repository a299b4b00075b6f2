"""The machine of one VM: from a summon to ready, and from idle to off.

It is driven by requests (SummonRequested and others), by what the world replies to its actions (StartReturned and
others), and by the clock. It returns actions and knows no socket.

At most one call to the hypervisor is under way for each VM, and none is begun while one is. A summon that comes at any
moment therefore joins or waits, and nothing is started twice (G1). A result carries the number of the call it belongs
to; the result of an abandoned call only clears the note that a call is under way. What the hypervisor reports
(GuestSeen) is believed if it was asked for after the last change of state; otherwise the shell asks again.

Whether a guest boots, is restored or continues is not decided here: the hypervisor looks at what is so when it is
called (README.md, "Saved state"), because this machine may have missed a change.

In the table, a VM is `at rest` when it is off, suspended, paused or failed, and a summon may start it from there;
`gone` is the same without failed; `up` is booting, ready or draining. `others` are the states that no row above names
for this event.

    state              event             then                        what happens
    at rest            SummonRequested   same, starting              armed first if the VM is configured so, else
                                                                     StartGuest; only for an operator if it backs
                                                                     off, is held or is asleep
    starting, booting  SummonRequested   same                        it joins; if Synjitsu is armed, it is answered
                                                                     (while starting only if `answer` says so)
    ready              SummonRequested   same                        it is answered at once
    draining           SummonRequested   ready                       the drain is over
    unknown, stopping  SummonRequested   same                        it is asked again when more is known
    starting           ArmReturned       same                        StartGuest; queries are answered as above
    starting           StartReturned     same, booting, ready, failed, stopping  booting; if Synjitsu is armed,
                                                                     everybody is answered. On an error it has failed:
                                                                     everybody is told why, Synjitsu turns the
                                                                     clients away, and it backs off
    starting           GuestHandedOver   same                        remembered for the boot
    booting            GuestHandedOver   same, ready                 ready, if nothing else is waited for
    booting            MaskSignalled     same, ready                 ready when the mask is met (masking.py)
    at rest, unknown   GuestSeen         same, gone, booting, ready, stopping  what the hypervisor says; one that runs
                                                                     is adopted as booting, and one that has failed
                                                                     and is off stays failed
    booting            GuestSeen         same, failed                failed, if the guest is gone
    ready, draining    GuestSeen         same, gone                  one that dies soon after its boot backs off
    ready, draining    GuestUnseen       same, unknown               whether it runs is no longer known: a query
                                                                     is refused with the reason until it is seen
    ready              DrainRequested    draining                    refused while it is in use, held, or kept up
    draining           DrainRequested    same                        the drain under way is the reply
    draining           DrainCancelled    same, ready                 ready, if it is this drain
    draining           StopApproved      stopping                    refused, if it is another drain
    up                 StopRequested     stopping                    everybody who waits is told
    at rest            StopRequested     same                        the back-off is forgotten
    stopping           StopRequested     same                        that is under way
    stopping           StopReturned      same, gone, booting, ready  at rest; a summon that came in the meantime is
                                                                     asked again. On an error it is as before, and
                                                                     is stopped again later
    up                 Reconfigured      same, stopping              a guest that may not go on running is stopped
                                                                     as what it was started as, and asked for
                                                                     again if a summon waits for it
    up                 Removed           same, stopping              the same; everybody who waits is told
    draining           OrdersChanged     same, ready                 a VM that is held or kept up does not drain
    starting           Tick              failed                      boot_limit has passed
    booting            Tick              ready, failed, stopping     ready, if the delay of the mask is over; if
                                                                     boot_limit has passed, failed and destroyed
    ready              Tick              same, stopping              as Reconfigured, after a stop has failed
    draining           Tick              ready, stopping             DRAIN_LIMIT_S has passed
    stopping           Tick              failed                      STOP_LIMIT_S has passed
    others             Reconfigured, Removed, OrdersChanged  same    noted
    others             StartReturned, StopReturned  same             a result that comes late: noted
    others             DrainRequested, StopApproved, StopRequested  same     refused
    others             ArmReturned, MaskSignalled, GuestHandedOver, DrainCancelled  same  ignored
    others             GuestSeen, GuestUnseen  same                  ignored
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.machine import Tick, Transition, step
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_vmd.rules.due import deadline
from jitsu_vmd.rules.events import (
    Action,
    ArmReturned,
    DrainCancelled,
    DrainRequested,
    Event,
    GuestHandedOver,
    GuestSeen,
    GuestUnseen,
    MaskSignalled,
    OrdersChanged,
    Reconfigured,
    Removed,
    StartReturned,
    StopApproved,
    StopRequested,
    StopReturned,
    SummonRequested,
)
from jitsu_vmd.rules.vm import boots, sightings, stops
from jitsu_vmd.rules.vm.machine import MAY_STOP, VmCore

if TYPE_CHECKING:
    from collections.abc import Iterable

_S = VmState


class VmMachine(VmCore):
    """One VM."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Handle an event; raises Refused or Unavailable to the requester, IllegalEvent for a bug."""
        if isinstance(event, SummonRequested):
            is_stopped_first = self.terms.removed or self.state in MAY_STOP
            if is_stopped_first and (why := self.terms.unwanted()):
                raise Unavailable(f"{self.vm.name}: {why}, and it has not stopped yet")
            if event.trigger == "dns":
                self.usage.note_answer(event.ttl, now)
        return self._step(event, now)

    def deadline(self) -> float | None:
        """Return when to look at the clock."""
        stops_at = self.call.stop_again_at if self.state in MAY_STOP and self.terms.unwanted() else None
        return deadline(self.state, self.since, self.vm.boot_limit, stops_at, self.boot.masking)

    def tick(self, now: float) -> list[Action]:
        """Look at the clock."""
        due = self.deadline()
        return [] if due is None or now < due else self._step(Tick(), now)

    def _step(self, event: Event | Tick, now: float) -> list[Action]:
        self.actions = []
        step(TRANSITIONS, self, event, now)
        return self.actions


Row = Transition[VmCore]

GONE = frozenset({_S.OFF, _S.SUSPENDED, _S.PAUSED})
UP = frozenset({_S.BOOTING, _S.READY, _S.DRAINING})
GROUPS = {"at rest": AT_REST, "gone": GONE, "up": UP}
"""Names of several states, as the docstring's table has them."""

TRANSITIONS: dict[tuple[VmState, type], Row] = {}


def _row(states: Iterable[VmState], event: type, handle: Any, *then: VmState, stays: bool = True) -> None:
    """Add a row for each state that has none yet for this event."""
    for state in sorted(states, key=list(VmState).index):  # a set has another order in each process
        following = {*then, state} if stays else set(then)
        TRANSITIONS.setdefault((state, event), Row(handle, frozenset(following)))


_row(AT_REST, SummonRequested, boots.begin, _S.STARTING)
_row([_S.STARTING, _S.BOOTING], SummonRequested, boots.join)
_row([_S.READY], SummonRequested, boots.use)
_row([_S.DRAINING], SummonRequested, boots.use, _S.READY, stays=False)
_row([_S.UNKNOWN, _S.STOPPING], SummonRequested, boots.begin_later)
_row([_S.STARTING], ArmReturned, boots.armed_or_not)
_row([_S.STARTING], StartReturned, boots.started, _S.BOOTING, _S.READY, _S.FAILED, _S.STOPPING)
_row([_S.STARTING], GuestHandedOver, boots.handed_over_early)
_row([_S.BOOTING], GuestHandedOver, boots.handed_over, _S.READY)
_row([_S.BOOTING], MaskSignalled, boots.signalled, _S.READY)
_row([*AT_REST, _S.UNKNOWN], GuestSeen, sightings.found, *GONE, _S.BOOTING, _S.READY, _S.STOPPING)
_row([_S.BOOTING], GuestSeen, sightings.lost_in_boot, _S.FAILED)
_row([_S.READY, _S.DRAINING], GuestSeen, sightings.lost, *GONE)
_row([_S.READY, _S.DRAINING], GuestUnseen, sightings.lost_from_sight, _S.UNKNOWN)
_row([_S.READY], DrainRequested, stops.drain, _S.DRAINING, stays=False)
_row([_S.DRAINING], DrainRequested, sightings.ignore)
_row([_S.DRAINING], DrainCancelled, stops.cancel_drain, _S.READY)
_row([_S.DRAINING], StopApproved, stops.stop_drained, _S.STOPPING, stays=False)
_row(UP, StopRequested, stops.stop_now, _S.STOPPING, stays=False)
_row(AT_REST, StopRequested, stops.forgive)
_row([_S.STOPPING], StopRequested, sightings.ignore)
_row([_S.STOPPING], StopReturned, stops.stopped, *GONE, _S.BOOTING, _S.READY)
_row(UP, Reconfigured, stops.reconfigure, _S.STOPPING)
_row(UP, Removed, stops.remove, _S.STOPPING)
_row([_S.DRAINING], OrdersChanged, stops.order, _S.READY)
_row([_S.STARTING], Tick, boots.start_is_late, _S.FAILED, stays=False)
_row([_S.BOOTING], Tick, boots.boot_is_late, _S.READY, _S.FAILED, _S.STOPPING, stays=False)
_row([_S.READY], Tick, stops.stop_if_unwanted, _S.STOPPING)
_row([_S.DRAINING], Tick, stops.drain_is_late, _S.READY, _S.STOPPING, stays=False)
_row([_S.STOPPING], Tick, stops.stop_is_late, _S.FAILED, stays=False)
_row(VmState, Reconfigured, stops.reconfigure)
_row(VmState, Removed, stops.remove)
_row(VmState, OrdersChanged, stops.order)
_row(VmState, StartReturned, stops.note_late_result)
_row(VmState, StopReturned, stops.note_late_result)
_row(VmState, DrainRequested, stops.refuse_drain)
_row(VmState, StopApproved, stops.refuse_stop)
_row(VmState, StopRequested, stops.refuse_to_stop)
for _event in (ArmReturned, MaskSignalled, GuestHandedOver, GuestSeen, GuestUnseen, DrainCancelled):
    _row(VmState, _event, sightings.ignore)
