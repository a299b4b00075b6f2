"""What the reaper learns: its events. They are in the past tense, and come from the bus and from vmd's replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_reaper.rules.drain import DrainBegun, DrainEnded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import Report, VmStatus
    from jitsu_protocol.model.inventory import VmChanged


@dataclass(frozen=True)
class VmsConfigured:
    """VMs came, went, or are configured otherwise."""

    changes: Sequence[VmChanged]


@dataclass(frozen=True)
class StatesListed:
    """A vmd has listed the states of all VMs of its host."""

    statuses: Sequence[VmStatus]
    host: str = ""
    wall: float = 0.0
    """Unix time."""


@dataclass(frozen=True)
class StateChanged:
    """A VM has another state, or (`gone`) is no longer there."""

    status: VmStatus
    gone: bool = False
    wall: float = 0.0
    """Unix time."""


@dataclass(frozen=True)
class UsageReported:
    """A dns replica or a Synjitsu has reported use, at this Unix time."""

    report: Report
    wall: float


@dataclass(frozen=True)
class StoreReturned:
    """The store has sent a snapshot: it may be a new one, which has lost the statistics of its last second."""


@dataclass(frozen=True)
class SaveEnded:
    """What was to be saved has been sent to the store, as far as it took it."""


PolicyEvent = VmsConfigured | StatesListed | StateChanged | DrainBegun | DrainEnded
ReaperEvent = PolicyEvent | UsageReported | StoreReturned | SaveEnded
