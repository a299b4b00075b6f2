"""Looking for mistakes before VMs are configured: what a check refuses in one VM is noted, and the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisor import Examined

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM


def examined(vm: VM, *checks: Callable[[VM], None], writes_to_disk: bool = False) -> Examined:
    """Return the first mistake that these checks find in a VM."""
    try:
        for check in checks:
            check(vm)
    except Refused as mistake:
        return Examined(str(mistake), writes_to_disk)
    return Examined(writes_to_disk=writes_to_disk)
