"""What happens to a VM's machine (events, in the past tense), and what it wants done (actions, in the imperative)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from jitsu_protocol.messages import Trigger
    from jitsu_protocol.model.errors import JitsuError
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.orders import Orders


class GuestState(StrEnum):
    """What a hypervisor can say of a VM."""

    OFF = "off"
    RUNNING = "running"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    CRASHED = "crashed"


STATE_FOUND: dict[GuestState, VmState] = {
    GuestState.OFF: VmState.OFF,
    GuestState.CRASHED: VmState.OFF,
    GuestState.SUSPENDED: VmState.SUSPENDED,
    GuestState.PAUSED: VmState.PAUSED,
}
"""The state of a VM whose guest is found like this, and does not run."""

STATE_AFTER: dict[StopMode, VmState] = {
    StopMode.DESTROY: VmState.OFF,
    StopMode.SHUTDOWN: VmState.OFF,
    StopMode.SUSPEND: VmState.SUSPENDED,
    StopMode.PAUSE: VmState.PAUSED,
}


@dataclass(frozen=True)
class SummonRequested:
    """Somebody wants the VM reachable."""

    trigger: Trigger
    waited_s: float = 0.0
    discard: bool = False
    """An operator wants it to boot from its disk: its saved state is to be deleted first."""
    ttl: int | None = None
    """Seconds for which clients may keep the answer that dns gives; None from an older dns."""
    queued_s: float = 0.0
    """How long it waited for admission (admission.py)."""
    by: str = ""
    """The requester: an operator, or the token of a client that a report to the reaper explains (`jitsu why`)."""


@dataclass(frozen=True)
class ArmReturned:
    """Synjitsu has answered, or has not in time."""

    call: int
    armed: bool


@dataclass(frozen=True)
class StartReturned:
    """The hypervisor has accepted or refused the start."""

    call: int
    error: JitsuError | None = None


@dataclass(frozen=True)
class MaskSignalled:
    """The port answers, or the key is there."""

    call: int


@dataclass(frozen=True)
class GuestHandedOver:
    """Synjitsu reports that the guest is there, and has what was kept for it."""


@dataclass(frozen=True)
class GuestSeen:
    """The hypervisor was asked at `as_of` and said this."""

    guest: GuestState
    as_of: float
    up_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class GuestUnseen:
    """The hypervisor was asked at `as_of`, and has said for a while that nothing is known of the guest (looks.py)."""

    as_of: float


@dataclass(frozen=True)
class DrainRequested:
    """The reaper finds the VM idle."""

    for_room: bool = False
    """Another VM waits for its room."""


@dataclass(frozen=True)
class DrainCancelled:
    """The reaper takes its drain back."""

    drain: str


@dataclass(frozen=True)
class StopApproved:
    """All replicas honour this drain: the VM may stop."""

    drain: str


@dataclass(frozen=True)
class StopRequested:
    """An operator wants the VM stopped."""

    by: str = ""


@dataclass(frozen=True)
class StopReturned:
    """The hypervisor has stopped the VM, or could not."""

    call: int
    error: JitsuError | None = None


@dataclass(frozen=True)
class Reconfigured:
    """The VM is configured like this now."""

    vm: VM


@dataclass(frozen=True)
class Removed:
    """The VM is no longer configured."""


@dataclass(frozen=True)
class OrdersChanged:
    """Operators or the VM's schedule ask for something else now."""

    orders: Orders


Event = (
    SummonRequested
    | ArmReturned
    | StartReturned
    | MaskSignalled
    | GuestHandedOver
    | GuestSeen
    | GuestUnseen
    | DrainRequested
    | DrainCancelled
    | StopApproved
    | StopRequested
    | StopReturned
    | Reconfigured
    | Removed
    | OrdersChanged
)


@dataclass(frozen=True)
class ArmSynjitsu:
    """Ask Synjitsu to hold the address; answer with ArmReturned."""

    call: int
    is_there: bool
    """The guest is paused: it has its address already, and will not announce itself."""


@dataclass(frozen=True)
class DisarmSynjitsu:
    """Report to Synjitsu how the boot ended."""

    outcome: Literal["ready", "failed"]


@dataclass(frozen=True)
class StartGuest:
    """Call the hypervisor; answer with StartReturned.

    Whether the guest boots, is restored or continues follows from what the hypervisor says at that moment.
    """

    call: int
    discard: bool = False
    """Delete its saved state first."""
    is_there: bool = False
    """The guest is paused: it has its interface already."""
    saved_as: VM | None = None
    """What the guest was started as whose saved state is deleted."""


@dataclass(frozen=True)
class StopGuest:
    """Call the hypervisor; answer with StopReturned."""

    call: int
    mode: StopMode


@dataclass(frozen=True)
class WatchGuest:
    """Watch for the port or key; answer with MaskSignalled. Ends when the VM no longer boots."""

    call: int


@dataclass(frozen=True)
class AnswerSummons:
    """Answer everybody who waits for the VM; `early`: only queries, because the start may still be refused."""

    error: JitsuError | None = None
    armed: bool = False
    early: bool = False


@dataclass(frozen=True)
class SummonAgain:
    """Ask again for what could not begin then: whether there is room for it now is not known here."""

    event: SummonRequested


@dataclass(frozen=True)
class PublishState:
    """Publish the VM's state on the feed."""


@dataclass(frozen=True)
class RecordStart:
    """Write the start into the statistics."""


Action = (
    ArmSynjitsu
    | DisarmSynjitsu
    | StartGuest
    | StopGuest
    | WatchGuest
    | AnswerSummons
    | SummonAgain
    | PublishState
    | RecordStart
)
