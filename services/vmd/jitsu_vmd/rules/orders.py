"""What operators and a VM's schedule ask for at the moment: who may start it, and whether idleness may stop it.

    order    who gives it                        what it does
    hold     jitsu hold                          only an operator starts or stops the VM
    kept     jitsu keep, an `awake` window       it is not stopped because it is idle
    asleep   an `asleep` window                  only an operator starts it; one that runs is stopped once it is idle

Each is a text that says why, for clients and operators, and is empty if there is no such order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.messages import Trigger


@dataclass(frozen=True)
class Orders:
    """The orders for one VM."""

    hold: str = ""
    kept: str = ""
    asleep: str = ""

    def forbid(self, trigger: Trigger) -> str:
        """Return why the VM may not be started for this reason; "" if it may."""
        if trigger == "operator":
            return ""
        return self.hold or ("" if trigger == "schedule" else self.asleep)

    def forbid_drain(self, *, for_room: bool) -> str:
        """Return why the VM may not be stopped for idleness, or for another that waits for room; "" if it may."""
        return self.hold or ("" if for_room else self.kept)
