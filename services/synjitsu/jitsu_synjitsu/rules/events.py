"""What happens to a VM's handover (events), and what it wants done (actions)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.kept import Item


@dataclass(frozen=True)
class ArmRequested:
    """vmd is about to start the VM; after `limit` the boot counts as failed."""

    limit: float
    by_xenstore: bool = False
    probed_port: int | None = None
    """The TCP port to which vmd connects, from this host, to find out whether the VM is ready."""


@dataclass(frozen=True)
class WakeRefused:
    """vmd does not start the VM."""


@dataclass(frozen=True)
class ManagedReported:
    """The guest says in Xenstore that it looks after its address itself."""


@dataclass(frozen=True)
class AskedFor:
    """Somebody asks who has an address (ARP request, neighbour solicitation)."""

    asker: Seen


@dataclass(frozen=True)
class PacketSeen:
    """A first packet for the VM: a SYN, a datagram, an echo request."""

    frame: bytes
    seen: Seen


@dataclass(frozen=True)
class Claimed:
    """Another machine says that it has an address."""

    claim: Seen


@dataclass(frozen=True)
class GuestFrameSeen:
    """A frame of the guest's own."""

    seen: Seen


@dataclass(frozen=True)
class ProbeAnswered:
    """The guest has answered a probe."""

    reply: Seen


@dataclass(frozen=True)
class UdpRefused:
    """The guest says that nobody listens on a UDP port."""

    reply: Seen


@dataclass(frozen=True)
class Appeared:
    """The guest has shown itself at an address; `items` is what was kept for that, oldest first."""

    mac: bytes
    items: Sequence[Item]


@dataclass(frozen=True)
class SynPassed:
    """A SYN has come when the guest had just shown itself; the bridge may have delivered it or not."""

    item: Item


@dataclass(frozen=True)
class GuestReplied:
    """The guest has sent any packet."""

    reply: Seen


@dataclass(frozen=True)
class ReadyReported:
    """vmd says that the VM is ready."""


@dataclass(frozen=True)
class FailureReported:
    """vmd says that the boot failed."""


Event = (
    ArmRequested
    | WakeRefused
    | ManagedReported
    | AskedFor
    | Claimed
    | PacketSeen
    | GuestFrameSeen
    | ProbeAnswered
    | UdpRefused
    | ReadyReported
    | FailureReported
)


@dataclass(frozen=True)
class SendFrame:
    """Put a frame on the bridge."""

    frame: bytes
    what: str
    """announcement, answer, question, probe, replay, forward or rejection: what it is counted as."""


@dataclass(frozen=True)
class ReportHandover:
    """Tell vmd that the guest is there, and has all that was kept for it."""

    vm: str
    mac: bytes


@dataclass(frozen=True)
class Wake:
    """Ask vmd to summon the VM; answer with WakeRefused if it does not."""

    vm: str
    packet: Seen | None = field(default=None, compare=False)
    """The packet that wakes it, for `jitsu why`."""


@dataclass(frozen=True)
class WriteEntry:
    """Write a SYN into Xenstore: path -> value."""

    vm: str
    values: dict[str, str]


@dataclass(frozen=True)
class ClearEntries:
    """Remove what was written for a VM, after so many seconds."""

    vm: str
    addresses: tuple[bytes, ...]
    after_s: float


@dataclass(frozen=True)
class ShutPort:
    """Keep the bridge from flooding to the guest's port, which comes when the VM is started (ports.py)."""

    vm: str
    mac: bytes


@dataclass(frozen=True)
class OpenPort:
    """Let the bridge flood to the guest's port again: the guest is there, or is not going to be."""

    vm: str


Action = SendFrame | ReportHandover | Wake | WriteEntry | ClearEntries | ShutPort | OpenPort
