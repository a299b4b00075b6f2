"""What can happen to a replica, and what its rules can want done: the plain data between rules and wires.

Events are named in the past tense, actions in the imperative. Those that only one part of the rules has are in its own
module: other servers in forward.py, secondaries in notify.py. What is made for each query is not frozen: see
exchange.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from jitsu_dns.rules.exchange import Client, Exchange
    from jitsu_dns.rules.lookup import Hit, Node
    from jitsu_dns.rules.names import Leaves
    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.errors import JitsuError
    from jitsu_protocol.model.inventory import VmChanged

# --- events ---


@dataclass(slots=True)
class QueryReceived:
    """A client has sent a packet that has no warm answer."""

    data: bytes
    client: Client


@dataclass(frozen=True)
class ClientGone:
    """A client can be sent nothing more: its connection is closed."""

    client: Hashable


@dataclass(slots=True)
class ColdQueryReceived:
    """A query asks for VMs of which none is ready."""

    exchange: Exchange
    hit: Hit


@dataclass(frozen=True)
class VmSummoned:
    """vmd has answered a summon: clients may be given the VM's addresses."""

    vm: str
    armed: bool = False
    """The VM is still starting, and Synjitsu answers for its addresses."""
    addresses: Sequence[str] = ()
    """Those that the guest was started with, as far as vmd knows."""


@dataclass(frozen=True)
class VmReady:
    """vmd has published that a VM is ready, with the addresses that are configured."""

    vm: str


@dataclass(frozen=True)
class SummonRefused:
    """A VM was not made reachable, for this reason."""

    vm: str
    error: JitsuError


@dataclass(frozen=True)
class StatesReceived:
    """The vmd of a host has reported the states of all its VMs."""

    statuses: Sequence[VmStatus]
    host: str = ""


@dataclass(frozen=True)
class StatePublished:
    """vmd has published a VM's new state; `gone`: the VM is not on that host any more."""

    status: VmStatus
    gone: bool = False


@dataclass(frozen=True)
class VmsChanged:
    """VMs came, went, or are configured otherwise; the zones have this serial from then on."""

    changes: Sequence[VmChanged]
    serial: int


@dataclass(frozen=True)
class NodesChanged:
    """VMs came to these names, or left them."""

    nodes: frozenset[Node]


@dataclass(frozen=True)
class NamesRemembered:
    """An earlier run has left what it knew: the leaves of each VM."""

    leaves: Mapping[str, Leaves]
    serial: int


@dataclass(frozen=True)
class NamesTold:
    """The store has said what there is; rules/names.py has it, and the zones have this serial."""

    serial: int


@dataclass(frozen=True)
class TurnCame:
    """No query waits to be read: there is time to make a few VMs that nobody has asked for yet."""


# --- actions ---


@dataclass(slots=True)
class Reply:
    """Send this back to the client whose packet was just received."""

    data: bytes


@dataclass(frozen=True)
class Drop:
    """Send nothing back: the response is over the limit of its network."""


@dataclass(slots=True)
class SendResponse:
    """Send a response to a client that has waited for it."""

    client: Hashable
    data: bytes


@dataclass(frozen=True)
class SendZone:
    """Send messages to a client over TCP, each when it can take it."""

    client: Hashable
    messages: Iterator[bytes]


@dataclass(frozen=True)
class SummonVm:
    """Ask vmd to make a VM reachable; then handle VmSummoned or SummonRefused."""

    vm: str
    timeout: float
    """Seconds."""
    delay: float = 0.0
    """Seconds before vmd is asked."""
    waited_s: float = 0.0
    """For how long the query has waited already: until its name was known."""
    by: str = field(default="", compare=False)
    """The token of the client that caused it (askers.py)."""


@dataclass(frozen=True)
class ReportDrain:
    """Report to the reaper at once: a VM drains."""


@dataclass(frozen=True)
class RecordWait:
    """Note for the metrics how long a query waited, in seconds."""

    seconds: float


DROP = Drop()
