"""Notes for `jitsu why` what the reaper learns and decides, and says when the file of the record is to be written.

    what is new                      is written
    a boot, a stop, a VM that left   at the next look, which is 20 ms later
    clients                          every CLIENTS_S, of MAX_CLIENTS_SAVED VMs at most, and when the reaper stops
    what is too old is forgotten     every EXPIRE_S, and then the whole file is written again

So a reaper that is killed loses the clients of the last minute, and nothing of boots and stops: what it has missed, vmd
tells the next one (`VmStatus.boot`, `VmStatus.stop`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_reaper.rules.drain import AskStop, DrainEnded, TakeBackDrain
from jitsu_reaper.rules.events import StateChanged, StatesListed, UsageReported, VmsConfigured
from jitsu_reaper.rules.recorded import Recorded
from jitsu_reaper.rules.why import Explanation, Moment
from jitsu_reaper.rules.why_text import spoken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages import WhyReport
    from jitsu_reaper.rules.drain import DrainAction
    from jitsu_reaper.rules.events import ReaperEvent
    from jitsu_reaper.rules.idle import Policy

CLIENTS_S = 60.0
MAX_CLIENTS_SAVED = 500
EXPIRE_S = 3600.0


@dataclass(frozen=True)
class WriteRecord:
    """Append to the file of the record what is new."""

    clients: int = 0
    """Of so many VMs the clients too."""
    whole: bool = False
    """Write the whole file again, without what was forgotten."""


class Recorder:
    """Notes; it decides nothing about VMs."""

    def __init__(self, policy: Policy, now: float) -> None:
        self.recorded = Recorded()
        self._policy = policy
        self._wall_offset = 0.0
        """Unix time is that much later than the reaper's own."""
        self._clients_at = now + CLIENTS_S
        self._expire_at = now + EXPIRE_S

    def handle(self, event: ReaperEvent, now: float) -> None:
        """Note what the reaper has learned."""
        match event:
            case UsageReported(report, wall):
                self._wall_offset = wall - now
                self.recorded.report(report, wall, self._policy.vms.configured)
            case StatesListed(statuses, _, wall):
                self._wall_offset = wall - now
                for status in statuses:
                    self.recorded.status(status, wall)
            case StateChanged(status, gone, wall):
                self._wall_offset = wall - now
                if not gone:
                    self.recorded.status(status, wall)
                elif status.uuid not in self._policy.vms.configured:
                    self.recorded.forget(status.uuid)
            case DrainEnded(vm, reason):
                if reason:
                    self.recorded.refused(vm, reason, now + self._wall_offset)
            case VmsConfigured(changes):
                for change in changes:
                    if change.new is None and change.old is not None:
                        self.recorded.forget(change.old.uuid)

    def decided(self, actions: Iterable[DrainAction], now: float) -> None:
        """Note what the reaper wants done, and why."""
        for action in actions:
            match action:
                case AskStop(vm, _):
                    host = self._policy.vms.host_of(vm)
                    why = "room" if self._policy.is_for_room(vm) else "idle"
                    unused = now - self._policy.usage.last_use(vm, host)
                    self.recorded.decided(vm, why, f"unused for {spoken(unused)}")
                case TakeBackDrain(vm, _, reason):
                    self.recorded.refused(vm, reason, now + self._wall_offset)

    def tick(self, now: float) -> list[WriteRecord]:
        """Return what is to be written now."""
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_S
            if self.recorded.expire(now + self._wall_offset):
                return [WriteRecord(whole=True)]
        if now >= self._clients_at:
            self._clients_at = now + CLIENTS_S
            if self.recorded.unsaved.clients or self.recorded.unsaved.is_due:
                return [WriteRecord(clients=MAX_CLIENTS_SAVED)]
        return [WriteRecord()] if self.recorded.unsaved.is_due else []

    def why(self, vm: str, now: float, wall: float) -> WhyReport:
        """Return why a VM has booted, why it is up and when it stops; raises NotFound."""
        return Explanation(vm, self._policy, self.recorded, Moment(now, wall)).report()
