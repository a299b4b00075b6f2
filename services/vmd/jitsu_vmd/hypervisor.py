"""The seam to a hypervisor, on one screen. A file in hypervisors/ implements it for one kind.

Every call may take long and must not block the event loop; a call that fails raises JitsuError with the reason.
vmd never makes a second start or stop call for a VM while one is under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import GuestState


@dataclass(frozen=True)
class Nic:
    """A network interface of a VM."""

    mac: str
    bridge: str = ""
    interface: str = ""
    """The host's end of it while the VM runs or is paused, for example `vnet3` (a tap) or `vif7.0`; "" if unknown."""


@dataclass(frozen=True)
class Guest:
    """What the hypervisor says about a VM."""

    state: GuestState
    up_s: float | None = None
    """How long it has been running, if the hypervisor knows."""
    reason: str = ""
    """Why it is not running, if that is known."""
    note: str = ""
    """What an operator should know about its saved state."""
    nics: tuple[Nic, ...] = ()


@dataclass(frozen=True)
class Examined:
    """What is found out about a VM before its configuration is committed."""

    mistake: str = ""
    """What it names that is not there, or a key that counts for nothing."""
    writes_to_disk: bool = False
    """It has a disk that it writes to, and can be shut down."""


class Hypervisor(Protocol):
    """What vmd asks of a hypervisor."""

    name: str
    watches_keys: bool
    """Whether `wait_for_key` can be watched for its guests."""

    def refusal(self, vm: VM) -> str:
        """Return why it cannot do what a VM's keys ask for, or nothing."""

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for mistakes in VMs as they would be configured, by uuid; in contrast to `refusal`, no start asks."""

    async def open(self) -> None:
        """Connect; raises SetupFault if that can never succeed, Unavailable if it may later."""

    async def run(self, changed: Callable[[str], None]) -> None:
        """Until cancelled, call `changed` with the uuid of a VM to look at again, "" for all."""

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Return what is known of these VMs, by uuid; those it lacks are off."""

    async def start(self, vm: VM) -> None:
        """Let a VM run, from whatever the hypervisor says it is now; returns when the hypervisor has accepted that.

        Off: it boots. Paused: it continues. Suspended: it is restored. Running: nothing is done. A saved state is
        restored at most once: raises BootFailed, and starts nothing, if it may have been used before.
        """

    async def discard(self, vm: VM) -> None:
        """Delete the saved state of a VM that does not run, in memory and on disk; raises Refused if it runs."""

    async def shutdown(self, vm: VM) -> None:
        """Ask the guest to stop; returns when it has, and destroys it if it does not."""

    async def destroy(self, vm: VM) -> None:
        """Stop a VM that runs, at once; no error if it is off or suspended. Raises Unavailable if it is paused."""

    async def suspend(self, vm: VM) -> None:
        """Suspend a VM to disk; returns when that is done."""

    async def pause(self, vm: VM) -> None:
        """Stop a VM's processors; it keeps its memory."""

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM that is no longer configured, and off.

        Saved state is never removed: raises Unavailable if there is some, and says where.
        """

    async def domain_id(self, vm: VM) -> int | None:
        """Return the id that a VM has in Xenstore while it runs, None where there is no Xenstore."""

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in Xenstore; only asked if `watches_keys`."""


@runtime_checkable
class ReservesInterfaces(Hypervisor, Protocol):
    """What a hypervisor may offer besides: it knows the interface of a VM before the VM has started."""

    async def reserve(self, vm: VM) -> str:
        """Return the host's end of the interface that the next start of a VM will use; raises JitsuError.

        It is kept for that start for a few seconds at least.
        """
