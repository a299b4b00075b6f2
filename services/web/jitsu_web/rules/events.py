"""What happens in the suite, as pages, webhooks and MQTT are told of it: one class for each kind of event.

Each event has a `kind`, which is the name of the event in the stream (`event:`), and `data()`, which is what stands
behind `data:` in JSON. The numbers that make a stream resumable are given by the log (event_log.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class VmEvent:
    """A VM is there, or something about it has changed."""

    kind: ClassVar[str] = "vm"

    vm: Mapping[str, Any]
    """The VM as `GET /api/v1/vms/{name}` shows it."""
    before: str = ""
    """Its state before this change; the same as now if something else has changed, "" if it was not known."""

    @property
    def name(self) -> str:
        """The VM's name."""
        return str(self.vm["name"])

    @property
    def state(self) -> str:
        """The VM's state now."""
        return str(self.vm["state"])

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return self.vm


@dataclass(frozen=True)
class GoneEvent:
    """A VM is no longer configured."""

    kind: ClassVar[str] = "gone"

    uuid: str
    name: str

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return {"uuid": self.uuid, "name": self.name}


@dataclass(frozen=True)
class SummonEvent:
    """A summon has ended, well or not."""

    kind: ClassVar[str] = "summon"

    summon: Mapping[str, Any]
    """One item of `GET /api/v1/vms/{name}/summons`."""

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return self.summon


@dataclass(frozen=True)
class DrainEvent:
    """A VM that seemed to be idle was asked to drain, or that drain has ended."""

    kind: ClassVar[str] = "drain"

    uuid: str
    name: str
    outcome: str
    """`begun`, `stopped`, or `prevented`: it was used after all, or something else keeps it up."""
    reason: str = ""

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return {"uuid": self.uuid, "name": self.name, "outcome": self.outcome, "reason": self.reason}


@dataclass(frozen=True)
class CommitEvent:
    """A branch has a new commit, or is gone."""

    kind: ClassVar[str] = "commit"

    branch: str
    commit: str
    """Empty if the branch was deleted."""
    author: str = ""
    message: str = ""
    ts: float = 0.0
    vms: Sequence[str] = field(default_factory=tuple)
    """The UUIDs of the VMs whose configuration it changes, a hundred at most."""

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return {
            "branch": self.branch,
            "commit": self.commit,
            "author": self.author,
            "message": self.message,
            "ts": self.ts,
            "vms": list(self.vms),
        }


@dataclass(frozen=True)
class ServiceEvent:
    """A service answers, no longer answers, or has something new to say about itself."""

    kind: ClassVar[str] = "service"

    service: Mapping[str, Any]
    """One item of `GET /api/v1/services`."""

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return self.service


@dataclass(frozen=True)
class ResetEvent:
    """What was sent before no longer leads to what is now: everything has to be read again."""

    kind: ClassVar[str] = "reset"

    def data(self) -> Mapping[str, Any]:
        """Return what is sent."""
        return {}


WebEvent = VmEvent | GoneEvent | SummonEvent | DrainEvent | CommitEvent | ServiceEvent | ResetEvent
KINDS: tuple[str, ...] = ("vm", "gone", "summon", "drain", "commit", "service", "reset")
