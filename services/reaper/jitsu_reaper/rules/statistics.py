"""The totals of each name: how often it was asked for, when last, and with which TTL it was answered.

The store keeps them for people, and for the reaper that comes after this one. They are saved a bounded number at a
time, those that changed first first. Names that no VM is configured to have are counted too, because the reaper may
hear of a VM later than dns does; but whoever reports them may have made them up, so they are bounded and saved apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import STATS_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.messages import Use

MAX_NAMES = 2000
"""Of one VM: its names and aliases, which are 1,000 of each at most. Statistics of more names are not kept."""
MAX_FOREIGN_NAMES = 10_000
"""Names in all of which queries are reported and that no VM is configured to have; only their statistics are lost."""
MAX_REQUESTS = 10**18
"""The store takes numbers of at most twenty digits."""
MAX_SAVED_NAMES = 2_000
"""At once: of 100,000 that are used all the time, each is saved every 50 s, and the store has time for changes."""

Name = tuple[str, str]
"""A VM, and one of its names."""


@dataclass
class Total:
    """The statistics of one name."""

    requests: int = 0
    last_ts: float = 0.0
    """Unix time."""
    ttl: int = 0
    """Of the answers that were reported last."""


@dataclass
class Saving:
    """Values for the store, by path, and the names that they are of."""

    of_ttls: bool
    names: list[Name]
    own: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    """Of names that are not configured: the store may refuse them, which must not keep the others from being saved."""


@dataclass
class UsageStatistics:
    """All of them, and which of them the store does not have yet."""

    totals: dict[Name, Total] = field(default_factory=dict)
    unsaved: dict[Name, None] = field(default_factory=dict)
    unsaved_ttls: dict[Name, None] = field(default_factory=dict)
    """Apart: they rarely change, and a store of protocol 1.1 refuses them."""
    _names: dict[str, list[str]] = field(default_factory=dict)
    """VM -> those of its names that have totals."""
    _configured: dict[str, frozenset[str]] = field(default_factory=dict)
    _foreign: set[Name] = field(default_factory=set)
    """Names in `totals` that are reported and not configured."""

    def remember(self, leaves: Mapping[str, str]) -> dict[Name, int]:
        """Take over what an earlier reaper saved; return the TTLs that it knew of."""
        ttls = {}
        for path, value in leaves.items():
            match path.removeprefix(STATS_ROOT + "/").split("/"):
                case [vm, "dns", name, "total_requests"]:
                    self.total(vm, name).requests = int(number_in(value))
                case [vm, "dns", name, "last_request_ts"]:
                    self.total(vm, name).last_ts = number_in(value)
                case [vm, "dns", name, "last_ttl"]:
                    ttls[vm, name] = self.total(vm, name).ttl = int(number_in(value))
        return ttls

    def configured(self, vm: str, names: frozenset[str]) -> None:
        """Note which names a VM has now."""
        self._configured[vm] = names
        self._foreign -= {(vm, name) for name in names}

    def answered(self, use: Use, ttl: int | None, wall: float) -> None:
        """Count what is reported of a name, at this Unix time."""
        if not self._is_counted(use.vm, use.name):
            return
        total = self.total(use.vm, use.name)
        total.requests = min(total.requests + use.count, MAX_REQUESTS)
        total.last_ts = max(total.last_ts, wall - use.age_s)
        if ttl is not None and ttl != total.ttl:
            total.ttl = ttl
            self.unsaved_ttls[use.vm, use.name] = None
        self.unsaved[use.vm, use.name] = None

    def _is_counted(self, vm: str, name: str) -> bool:
        """Say whether there are statistics of a name: it is configured, or there are not too many others."""
        if (vm, name) in self.totals or name in self._configured.get(vm, ()):
            return True
        if len(self._names.get(vm, ())) >= MAX_NAMES or len(self._foreign) >= MAX_FOREIGN_NAMES:
            return False
        self._foreign.add((vm, name))
        return True

    def total(self, vm: str, name: str) -> Total:
        """Return the statistics of a name, which begin at nothing."""
        total = self.totals.get((vm, name))
        if total is None:
            total = self.totals[vm, name] = Total()
            self._names.setdefault(vm, []).append(name)
        return total

    def requests(self, vm: str) -> int:
        """Return how often the names of a VM were asked for."""
        totals = (self.totals.get((vm, name)) for name in tuple(self._names.get(vm, ())))
        return sum(total.requests for total in totals if total is not None)

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self._configured.pop(vm, None)
        for name in self._names.pop(vm, ()):
            del self.totals[vm, name]
            self._foreign.discard((vm, name))
            self.unsaved.pop((vm, name), None)
            self.unsaved_ttls.pop((vm, name), None)

    def save_again(self) -> None:
        """Note that the store may have lost what was saved last."""
        self.unsaved |= dict.fromkeys(self.totals)
        self.unsaved_ttls |= dict.fromkeys(key for key, total in self.totals.items() if total.ttl)

    def next_totals(self) -> Saving:
        """Return the totals to save next; they count as saved unless `not_saved` is called."""
        return self._next(self.unsaved, of_ttls=False)

    def next_ttls(self) -> Saving:
        """Return the TTLs to save next. A reaper that comes after this one needs those that were lowered since."""
        return self._next(self.unsaved_ttls, of_ttls=True)

    def not_saved(self, saving: Saving) -> None:
        """Note that the store did not take these: those that there still are will be saved later."""
        unsaved = self.unsaved_ttls if saving.of_ttls else self.unsaved
        unsaved |= {name: None for name in saving.names if name in self.totals}

    def _next(self, unsaved: dict[Name, None], *, of_ttls: bool) -> Saving:
        saving = Saving(of_ttls, list(islice(unsaved, MAX_SAVED_NAMES)))
        for vm, name in saving.names:
            del unsaved[vm, name]
            total, path = self.totals[vm, name], f"{STATS_ROOT}/{vm}/dns/{name}"
            values = saving.foreign if (vm, name) in self._foreign else saving.own
            if of_ttls:
                values[f"{path}/last_ttl"] = str(total.ttl)
            else:
                values[f"{path}/total_requests"] = str(total.requests)
                values[f"{path}/last_request_ts"] = f"{total.last_ts:.6f}"
        return saving


def number_in(text: str) -> float:
    """Return a number from the store; 0 for text that is not a finite number, because others may have written it."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
