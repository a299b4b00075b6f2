"""VMs that vmd arms and that are not configured, as far as Synjitsu has heard.

vmd may hear of a new VM first, so such a VM is served like any other. But whoever has vmd's key could arm any number of
VMs that do not exist, so no more than MAX_STRANGERS are remembered at a time (G9). Those whose addresses are no longer
held are forgotten first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Container

MAX_STRANGERS = 10_000


@dataclass
class Strangers:
    """All of them."""

    configured: Container[str]
    """The VMs that are configured."""
    is_held: Callable[[str], bool]
    """Says whether the addresses of a VM are held."""
    max_strangers: int = MAX_STRANGERS
    _vms: dict[str, None] = field(default_factory=dict, init=False)

    def admit(self, vm: str) -> list[str]:
        """Note that a VM is armed; returns those that are forgotten for it. Raises Unavailable beyond the limit."""
        if vm in self._vms or vm in self.configured:
            return []
        forgotten = []
        if len(self._vms) >= self.max_strangers:
            over = [each for each in self._vms if not self.is_held(each)]
            for each in over:
                del self._vms[each]
            forgotten = [each for each in over if each not in self.configured]
        if len(self._vms) < self.max_strangers:
            self._vms[vm] = None
            return forgotten
        raise Unavailable(f"{self.max_strangers} VMs are armed that are not configured")
