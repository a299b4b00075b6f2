"""The VMs of whose use the reaper does not know yet, in the order in which it is to hear of them.

A VM that somebody is connected to is reported again and again, as in use now. Any other is reported when it has been
used since the moment up to which the reaper knows of its use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Use

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.running import Running

MAX_USES = 5000
"""In a report."""


@dataclass
class Unreported:
    """Those of one bridge."""

    _vms: dict[str, Running] = field(default_factory=dict, init=False)
    """The one that the reaper has heard of last is at the end."""

    def note(self, vm: Running) -> None:
        """Note that a VM may have been used, or that its connections have changed."""
        if vm.is_connected() or vm.used_at > vm.reported_up_to:
            self._vms.setdefault(vm.vm, vm)
        else:
            self._vms.pop(vm.vm, None)

    def forget(self, vm: str) -> None:
        """Forget a VM that runs no longer."""
        self._vms.pop(vm, None)

    def uses(self, now: float) -> list[tuple[Use, float]]:
        """Return what the reaper does not know yet, each with what `acknowledged` takes when it does."""
        found = []
        for vm in islice(self._vms.values(), MAX_USES):
            used_at = now if vm.is_connected() else vm.used_at
            found.append((Use(vm.vm, "", 0, max(0.0, now - used_at)), min(used_at, now)))
        return found

    def acknowledged(self, vm: str, up_to: float) -> None:
        """Note that the reaper knows of a VM's use up to a moment."""
        known = self._vms.pop(vm, None)
        if known is not None:
            known.reported_up_to = max(known.reported_up_to, up_to)
            self.note(known)
