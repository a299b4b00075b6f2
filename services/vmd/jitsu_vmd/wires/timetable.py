"""The schedules of all VMs, on this host's clock."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_vmd.rules.schedules import Schedules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import tzinfo

    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_runtime.clock import Timer
    from jitsu_runtime.world import World
    from jitsu_vmd.rules.summon import VmMachine

MAX_SLEEP_S = 60.0
"""The clock may be set, so the schedules are looked at at least that often."""
MIN_SLEEP_S = 0.01
LOCAL_ZONE = Path("/etc/localtime")


class Timetable:
    """Looks at the schedules whenever one of them may change, and has VMs started."""

    def __init__(
        self,
        world: World,
        machine: Callable[[str], VmMachine | None],
        changed: Callable[[], None],
        start: Callable[[str], Coroutine[None, None, None]],
    ) -> None:
        """`changed` is called when schedules may ask for something else; `start` starts a VM, and never raises."""
        self._world, self._changed, self._start = world, changed, start
        self.schedules = Schedules(machine, local_zone)
        self._timer: Timer | None = None
        self._has_begun = False

    def configure(self, changes: Sequence[VmChanged]) -> None:
        """Adopt the schedules of VMs that came, went or are configured differently.

        Their orders are known when this returns. VMs are started a moment later, when they have a machine.
        """
        known = [(change.new or change.old, change.new) for change in changes]
        concerned = [vm for vm, new in known if vm is not None and self.schedules.configure(vm.uuid, new)]
        if concerned:
            self.schedules.look(self._world.clock.wall())
            if self._has_begun:
                self._look_soon()

    def begin(self) -> None:
        """Start VMs from now on: all are known."""
        self._has_begun = True
        self._look_soon()

    def _look_soon(self) -> None:
        self.schedules.look_again()
        self._look_in(0.0)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._world.clock.call_in(seconds, self._look)

    def _look(self) -> None:
        now = self._world.clock.wall()
        for vm in self.schedules.look(now):
            self._world.spawn(self._start(vm))
        self._changed()
        due = self.schedules.deadline()
        if due is not None:
            self._look_in(min(max(due - now, MIN_SLEEP_S), MAX_SLEEP_S))


def local_zone() -> tzinfo:
    """Return the time zone of this host (localtime(5), tzset(3)); UTC if it says none."""
    from zoneinfo import ZoneInfo

    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with LOCAL_ZONE.open("rb") as file:
            return ZoneInfo.from_file(file, key="local time")
    except (OSError, ValueError):
        return UTC
