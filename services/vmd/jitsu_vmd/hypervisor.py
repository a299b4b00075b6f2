"""The seam to a hypervisor, on one screen. Each folder in hypervisors/ implements it for one kind.

A call may take long, and must not block the event loop. A call that fails raises a JitsuError with the reason. vmd
never makes a second call that starts or stops a VM while one is under way.

`Hypervisor` is what vmd needs of every kind. What only some kinds can do is a protocol of its own below; vmd asks with
isinstance whether a hypervisor has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode


OTHERS = "others"
"""Stands for machines of which no VM is known, where a hint has the uuid of a VM."""


class Unseen(Unavailable):
    """One of several VMs could not be looked at, though the hypervisor answers."""


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

    state: GuestState = GuestState.OFF
    up_s: float | None = None
    """How long it has been running, if the hypervisor knows."""
    reason: str = ""
    """Why it is not running, if that is known."""
    note: str = ""
    """What an operator should know about its saved state."""
    nics: tuple[Nic, ...] = ()
    unseen: str = ""
    """Why nothing is known of it, though the hypervisor answers for others: its host is cut off, for example. Then its
    state counts for nothing, and it is not started."""


@dataclass(frozen=True)
class Examined:
    """What is found out about a VM before its configuration is committed."""

    mistake: str = ""
    """What it names that is not there, or a key that has no effect."""
    writes_to_disk: bool = False
    """It has a disk that it writes to, and can be shut down."""


class Hypervisor(Protocol):
    """What vmd asks of every hypervisor."""

    name: str
    """As an operator reads it, for example `libvirt (qemu:///system)`."""

    def check(self, vm: VM) -> None:
        """Raise Refused if the hypervisor cannot do what a VM's keys ask for. Called before each start: be quick."""

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for mistakes in VMs that are about to be configured, by uuid. No start depends on what is found."""

    async def open(self) -> None:
        """Connect. Raises SetupFault if that can never succeed, Unavailable if it may succeed later.

        Called again after `run` has ended.
        """

    async def run(self, changed: Callable[[str], None]) -> None:
        """Until cancelled, call `changed` with the uuid of a VM to look at again, or with "" for all VMs.

        If it raises, it is called again after `open`, with the same `changed`.

        A kind that can list its machines calls it with OTHERS if something has happened to a machine of which no VM is
        known: its labels may describe one.
        """

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Return what is known of these VMs, by uuid; a VM that is missing is off.

        Raises Unseen if one of them cannot be looked at: vmd then finds out which. Any other JitsuError means that the
        hypervisor is silent.
        """

    async def start(self, vm: VM) -> None:
        """Let a VM run, from whatever state it is in now. Returns when the hypervisor has accepted that.

        Off: it boots. Paused: it continues. Suspended: it is restored. Running: nothing is done. A saved state is
        restored at most once: raises BootFailed, and starts nothing, if it may have been used before.
        """

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM. Returns when that is done.

        destroy: at once; no error if it is off or suspended; raises Unavailable if it is paused.
        shutdown: ask the guest; destroy it if it has not shut down within the VM's `shutdown_limit`.
        suspend: save its memory to disk. pause: stop its processors, and keep its memory.
        """

    async def discard(self, vm: VM) -> None:
        """Delete the saved state of a VM that does not run, in memory and on disk. Raises Refused if it runs."""

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM that is no longer configured, and is off.

        Saved state is never removed: raises Unavailable if there is some, and says where it is.
        """


@runtime_checkable
class DomainIds(Protocol):
    """An ability: the VMs are domains of Xen, and have ids."""

    async def domain_id(self, vm: VM) -> int | None:
        """Return the id that a VM has in Xenstore while it runs, else None."""


@runtime_checkable
class XenstoreKeys(DomainIds, Protocol):
    """An ability: this host's Xenstore has the VMs, so `wait_for_key` can be watched."""

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in Xenstore."""


@runtime_checkable
class ReservesInterfaces(Protocol):
    """An ability: the interface of a VM is known before the VM has started."""

    async def reserve(self, vm: VM) -> str:
        """Return the host's end of the interface that the next start of a VM will use, "" if it has none.

        It is kept for that start for a few seconds at least. Raises JitsuError.
        """


@runtime_checkable
class HasNotes(Protocol):
    """An ability: it knows what an operator should know of it, though it answers."""

    def notes(self) -> list[str]:
        """Return sentences for `jitsu status`."""


@dataclass(frozen=True)
class Discovered:
    """A machine that a hypervisor has, whether or not a VM is configured for it."""

    name: str
    """Its name at the hypervisor."""
    uuid: str = ""
    """Its uuid, if the hypervisor keeps one that stays the same; else ""."""
    is_running: bool = False
    nics: tuple[Nic, ...] = ()
    addresses: tuple[str, ...] = ()
    """Its IPv4 and IPv6 addresses, as far as the hypervisor itself can tell (fixed addresses, leases, agents).

    An address from a label stays in `keys`: a VM that labels describe may only have addresses that are listed here.
    """
    ports: tuple[int, ...] = ()
    """TCP ports on which it says that it listens, for example those that a container's image exposes."""
    is_read: bool = True
    """False if its labels and addresses could not be read now: then nothing is concluded from what is missing."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Keys of a VM that its owner has written beside it: labels, metadata, `user.jitsu.*`, tags. Not checked yet.

    Several values of one key are divided by commas.
    """


@runtime_checkable
class Discovers(Protocol):
    """An ability: it can list its machines, for `jitsu discover` and for VMs that labels describe."""

    async def discover(self) -> Sequence[Discovered]:
        """Return all machines that it has. Raises JitsuError."""
