"""What happens to the VMs of one vmd as a whole (events), and what the fleet wants done (actions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import Event, GuestSeen, GuestUnseen, SummonRequested
    from jitsu_vmd.rules.summon import VmMachine

# --- events ---


@dataclass(frozen=True)
class SummonArrived:
    """Somebody asked for a VM."""

    vm: str
    event: SummonRequested
    waiter: object
    """The waiter for the reply; AwaitAdmission carries it back."""


@dataclass(frozen=True)
class SummonRepeated:
    """A summon that could not begin earlier is asked again."""

    vm: str
    event: SummonRequested


@dataclass(frozen=True)
class DrainArrived:
    """The reaper finds a VM idle."""

    vm: str


@dataclass(frozen=True)
class FleetConfigured:
    """VMs came, went, or are configured differently."""

    changes: Sequence[VmChanged]


@dataclass(frozen=True)
class LeftoversFound:
    """An earlier vmd started these guests. If they are no longer configured, they are to be stopped."""

    started: Sequence[VM]


@dataclass(frozen=True)
class AllKnown:
    """All VMs are known, and their hypervisors have been asked about them."""


@dataclass(frozen=True)
class OrdersReviewed:
    """Operators or schedules may ask for something else of some VMs than before."""


@dataclass(frozen=True)
class LimitsChanged:
    """Other limits are configured; 0 is none. Memory is in KiB."""

    max_booting: int
    max_running: int
    max_memory: int


@dataclass(frozen=True)
class VmActed:
    """The machine of a VM has handled something."""

    machine: VmMachine
    published: bool
    """Its state is another one, or something else that is published."""


@dataclass(frozen=True)
class GuestFound:
    """A hypervisor was asked about a VM."""

    vm: str
    seen: GuestSeen | GuestUnseen


@dataclass(frozen=True)
class HintReceived:
    """A hypervisor reports that something may have happened to a VM, or with "" to any."""

    vm: str


@dataclass(frozen=True)
class CallEnded:
    """A start or stop call has returned, and its machine has handled that."""

    vm: str
    look: bool
    """What it has left behind has to be looked at in any case."""


FleetEvent = (
    SummonArrived
    | SummonRepeated
    | DrainArrived
    | FleetConfigured
    | LeftoversFound
    | AllKnown
    | OrdersReviewed
    | LimitsChanged
    | VmActed
    | GuestFound
    | HintReceived
    | CallEnded
)

# --- actions ---


@dataclass(frozen=True)
class PassOn:
    """Give an event to the machine of a VM. What it raises is the reply to whoever asked."""

    vm: str
    event: Event


@dataclass(frozen=True)
class Admit:
    """Give the machine of a VM a summon that has waited for admission. What it raises concerns no other VM."""

    vm: str
    event: SummonRequested


@dataclass(frozen=True)
class AwaitAdmission:
    """Let a requester wait this long, and then tell it what the VM is waiting for."""

    vm: str
    waiter: object
    patience_s: float


@dataclass(frozen=True)
class AddVm:
    """Drive the machine of a new VM from now on."""

    machine: VmMachine


@dataclass(frozen=True)
class DropVm:
    """Forget a VM that is no longer configured and has no guest."""

    machine: VmMachine
    forget_guest: bool
    """Its hypervisor has to remove what was made for it."""


@dataclass(frozen=True)
class SaveStarted:
    """Save what the guest of a VM was started as, or that it is off."""

    vm: str
    started: VM | None


@dataclass(frozen=True)
class PublishVm:
    """Publish what is known of a VM."""

    vm: str


@dataclass(frozen=True)
class LookAt:
    """Ask the hypervisor about a VM soon; with "" about all."""

    vm: str


@dataclass(frozen=True)
class Warn:
    """Log a warning about a VM."""

    event: str
    vm: VM
    reason: str
    hint: str = ""
    """What an operator can do about it."""


FleetAction = PassOn | Admit | AwaitAdmission | AddVm | DropVm | SaveStarted | PublishVm | LookAt | Warn
