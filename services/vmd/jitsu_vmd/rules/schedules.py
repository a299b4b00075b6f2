"""The schedules of all VMs: who is awake or asleep now, and who is to be started ahead of its time.

Times here are Unix time in seconds. A VM that has a schedule is in one of three phases (calendar.py):

    phase    its order (orders.py)   what is done when the phase begins
    free     none                    nothing
    awake    kept                    it is started, unless it runs; again later if that fails, until it has run once
    asleep   asleep                  nothing: if it runs, it is stopped once it is idle

The phase awake begins ahead of its window, by as long as the VM's last boot took and a quarter more, so that the VM is
ready when the window opens. Once it has run in the window, nothing starts it again but what starts any VM: an operator
who stops it means that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jitsu_protocol.deadlines import Deadlines
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.calendar import Phase, schedule
from jitsu_vmd.rules.orders import Orders

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.calendar import Schedule
    from jitsu_vmd.rules.summon import VmMachine

UNMEASURED_BOOT_S = 30.0
"""How long a boot is expected to take before one was measured."""
LEAD_FACTOR = 1.25
RETRY_S = 10.0
"""A start that has failed is tried again after that long. The VM's own back-off may refuse it for longer."""
_UP = frozenset({VmState.READY, VmState.DRAINING})


@dataclass
class _Planned:
    """The schedule of one VM, and where it stands in it."""

    schedule: Schedule
    phase: Phase | None = None
    """None before the first look."""
    until: float = 0.0
    """When it is looked at again, because the phase may be another then."""
    ends: datetime | None = None
    """When the phase ends, for people."""
    has_run: bool = False
    """In this window."""


class Schedules:
    """The schedules of the VMs of one vmd."""

    def __init__(self, machine: Callable[[str], VmMachine | None], local: Callable[[], tzinfo]) -> None:
        """`machine` returns the machine of a VM, and `local` the time zone of this host."""
        self._machine, self._local = machine, local
        self._planned: dict[str, _Planned] = {}
        self._due: Deadlines[str] = Deadlines()
        self._looked_at = 0.0

    def configure(self, uuid: str, vm: VM | None) -> bool:
        """Adopt the schedule of a VM, and return whether it has one, or had; None if it is no longer configured.

        What changes is decided by the next look.
        """
        before = self._planned.pop(uuid, None)
        self._due.discard(uuid)
        planned = None if vm is None else self._read(vm)
        if planned is not None:
            has_run = before is not None and before.phase is Phase.AWAKE and before.has_run
            self._planned[uuid] = _Planned(planned, has_run=has_run)
            self._due.set(uuid, 0.0)
        return before is not None or planned is not None

    def look_again(self) -> None:
        """Have the next look decide about all VMs: machines have come that were not there at the last one."""
        for uuid in self._planned:
            self._due.set(uuid, 0.0)

    def orders(self, uuid: str) -> Orders:
        """Return what the schedule of a VM asks for, as of the last look."""
        planned = self._planned.get(uuid)
        if planned is None or planned.phase in (None, Phase.FREE):
            return Orders()
        ends = "" if planned.ends is None else f" until {planned.ends:%a %Y-%m-%d %H:%M %Z}"
        text = f"{planned.phase}{ends}, by its schedule"
        return Orders(kept=text) if planned.phase is Phase.AWAKE else Orders(asleep=text)

    def deadline(self) -> float | None:
        """Return when the next look is due; None if no VM has a schedule."""
        found = self._due.earliest()
        return None if found is None else found[1]

    def look(self, now: float) -> list[str]:
        """Decide in which phase each VM is now, and return the VMs to start."""
        if now < self._looked_at:  # the clock was set back
            for uuid, planned in self._planned.items():
                planned.until = 0.0
                self._due.set(uuid, 0.0)
        self._looked_at = now
        starts = []
        while (vm := self._due.pop_due(now)) is not None:
            planned = self._planned[vm]
            if now >= planned.until:
                self._enter_phase(vm, planned, now)
            if planned.phase is Phase.AWAKE and self._is_to_start(vm, planned):
                starts.append(vm)
            is_watched = planned.phase is Phase.AWAKE and not planned.has_run
            self._due.set(vm, min(planned.until, now + RETRY_S) if is_watched else planned.until)
        return starts

    def _read(self, vm: VM) -> Schedule | None:
        try:
            return schedule(vm, self._local)
        except ValueError:  # the fleet refuses to start such a VM, and says why
            return None

    def _enter_phase(self, uuid: str, planned: _Planned, now: float) -> None:
        at = datetime.fromtimestamp(now, UTC)
        is_another_window = planned.phase is not Phase.AWAKE or (planned.ends is not None and at >= planned.ends)
        phase = planned.schedule.phase(at)
        ends, then = planned.schedule.changes_after(at)
        planned.until = ends.timestamp()
        if phase is not Phase.AWAKE and then is Phase.AWAKE:
            opens_ahead = planned.until - self._lead_s(uuid)
            if now < opens_ahead:
                planned.until = opens_ahead
            else:
                phase = Phase.AWAKE
                ends, then = planned.schedule.changes_after(ends)
                planned.until = ends.timestamp()
        if planned.phase is not None and phase is Phase.AWAKE and is_another_window:
            planned.has_run = False
        planned.phase = phase
        planned.ends = ends.astimezone(planned.schedule.calendar.zone) if then is not phase else None

    def _is_to_start(self, uuid: str, planned: _Planned) -> bool:
        machine = self._machine(uuid)
        if machine is None or planned.has_run:
            return False
        planned.has_run = machine.state in _UP
        return not planned.has_run and not machine.is_busy()

    def _lead_s(self, uuid: str) -> float:
        machine = self._machine(uuid)
        if machine is None:
            return UNMEASURED_BOOT_S
        boot_s = machine.summons.boot_s
        return UNMEASURED_BOOT_S if boot_s is None else min(LEAD_FACTOR * boot_s, machine.vm.boot_limit)
