"""What is known of each VM: how it is configured, in which state it is, and from when on it may be drained.

A VM that is held (`VmStatus.hold`) is never idle. One that is kept up (`kept`) is stopped only for another that waits
for room, if it has `evict`. Any other is idle when its last use is `idle_timeout` ago and no answer for it is within
the TTL that it had when it was given: the TTL may have been lowered since (usage.py). A drain that came to nothing is
not tried again at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.vm import VM
    from jitsu_reaper.rules.usage import Usage

NEVER = float("inf")


@dataclass
class KnownVms:
    """All VMs. Times are the reaper's own monotonic seconds."""

    usage: Usage
    configured: dict[str, VM] = field(default_factory=dict)
    states: dict[str, VmStatus] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    """Those that this reaper drains."""
    not_before: dict[str, float] = field(default_factory=dict)
    """VMs whose drain came to nothing -> when the next may begin."""

    def host_of(self, vm: str) -> str:
        """Return the host whose vmd runs a VM."""
        known = self.states.get(vm)
        return "" if known is None else known.host

    def name_of(self, vm: str) -> str:
        """Return a VM's name, or its UUID if it is no longer known."""
        known = self.states.get(vm) or self.configured.get(vm)
        return vm if known is None else known.name

    def idle_at(self, vm: str) -> float:
        """Return when a VM is idle; never, if it is kept up."""
        known = self.states.get(vm)
        if known is not None and known.kept:
            return NEVER
        return self._unused_for(vm, self.configured[vm].idle_timeout) if vm in self.configured else NEVER

    def idle_from(self, vm: str) -> float:
        """Return when a VM may be drained because it is idle."""
        return max(self.idle_at(vm), self.not_before.get(vm, 0.0))

    def gives_way_at(self, vm: str) -> float:
        """Return when a VM has been idle for long enough to give way to another."""
        return self._unused_for(vm, self.configured[vm].evict_timeout) if vm in self.configured else NEVER

    def evictable_at(self, vm: str) -> float | None:
        """Return when a VM may be drained for another; None if that is never."""
        own, known = self.configured.get(vm), self.states.get(vm)
        if own is None or not own.evict or known is None or known.state is not VmState.READY or vm in self.draining:
            return None
        if known.hold:
            return None
        return max(self.gives_way_at(vm), self.not_before.get(vm, 0.0))

    def rank(self, vm: str) -> tuple[int, float]:
        """Return a VM's priority, and when it was used last."""
        return self.configured[vm].priority, self.usage.last_use(vm, self.host_of(vm))

    def _unused_for(self, vm: str, timeout: float) -> float:
        """Return when a VM's last use is that long ago, and no answer for it is within the TTL that it had (G3)."""
        host = self.host_of(vm)
        return max(self.usage.last_use(vm, host) + timeout, self.usage.valid_until(vm, host))
