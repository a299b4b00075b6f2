"""Who was used last when, from what the replicas report; and what silence means.

A replica goes on answering for ready VMs until its lease has run out, even if nobody hears from it. So one that is
silent counts as activity for every VM until then (G3), and a reaper that never heard of any replica knows
nothing and stops nothing (G8). Synjitsu reports as the replicas do, of traffic; while it is silent, connections may be
open, and its lease is as long as one may be idle. All times are the reaper's own monotonic seconds.

    replica      event                        then
    heard        SILENT_S without a report    silent: every VM that it is about counts as used until now
    silent       a report                     heard
    silent       its lease is over            gone: the VMs count as used when the lease ended, and no later
    any          another start of it reports  heard; the VMs count as used now: who died did not report its last second

What is reported of a VM that is not configured is kept for a while, as the reaper may hear of the VM after dns does.
The VM counts as used when it comes, because what was reported before may be forgotten by then. Names, hosts and drains
that a replica has made up are bounded too (G9).

A reaper that was held up itself (a host that swaps, a stopped container) has heard nobody meanwhile, and what they said
waits to be read: it judges silence again when it has listened for `AWAY_S`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.lifetimes import AnswerLifetimes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages import Report

SILENT_S = 4.0
"""Replicas report every second; four missing reports are silence."""
MAX_REPLICAS = 1000
UNKNOWN_S = 60.0
"""What is reported of a VM that is not configured is forgotten so long after the last report of it."""
MAX_UNKNOWN = 20_000
"""VMs that are not configured and of which something is kept; more displace those that were reported longest ago."""
MAX_NAMES = 2000
"""Of one VM: its names and aliases, which are 1,000 of each at most. Statistics of more names are not kept."""
MAX_FOREIGN_NAMES = 10_000
"""Names in all of which queries are reported and that no VM is configured to have; only their statistics are lost."""
MAX_HONOURED = 2000
"""Drains that one replica is believed to honour; at most 64 are under way on each host. Those beyond do not count."""
MAX_FLOORS = 1000
"""Hosts of whose VMs it is noted until when they count as used."""
MAX_REQUESTS = 10**18
"""The store takes numbers of at most twenty digits."""
AWAY_S = 2.0
"""The reaper looks at the clock every second; if it was later than this it was held up."""


@dataclass
class Replica:
    """One dns replica, or one Synjitsu, as far as it is known."""

    instance: str
    batch: int
    heard_at: float
    lease_s: float
    service: str = "dns"
    host: str | None = None
    """The host whose VMs it is about; None for all."""
    drains: frozenset[str] = frozenset()
    """Drains that it honours."""

    def is_about(self, host: str) -> bool:
        """Say whether it has to do with the VMs of a host."""
        return self.host is None or self.host == host


@dataclass
class Total:
    """The statistics of one name."""

    requests: int = 0
    last_ts: float = 0.0
    ttl: int = 0
    """Of the answers that were reported last."""


@dataclass
class Activity:
    """What is known of use."""

    floor: float
    """No VM counts as unused before this: the reaper was not there, or a replica may have answered unheard."""
    replicas: dict[str, Replica] = field(default_factory=dict)
    informed: bool = False
    """Some dns replica has been heard of, ever."""
    totals: dict[tuple[str, str], Total] = field(default_factory=dict)
    unsaved: dict[tuple[str, str], None] = field(default_factory=dict)
    """Names whose totals are not in the store yet."""
    unsaved_ttls: dict[tuple[str, str], None] = field(default_factory=dict)
    """The same for the TTLs of their answers."""
    _used: dict[str, float] = field(default_factory=dict)
    _answers: dict[str, AnswerLifetimes] = field(default_factory=dict)
    _floors: dict[str | None, float] = field(default_factory=dict)
    """The same for the VMs of one host, or (None) of all."""
    _names: dict[str, list[str]] = field(default_factory=dict)
    """VM -> those of its names that have totals."""
    _configured: dict[str, frozenset[str]] = field(default_factory=dict)
    """Each VM that is configured, with its names."""
    _foreign: set[tuple[str, str]] = field(default_factory=set)
    """Names in `totals` that are reported and not configured."""
    _unknown: dict[str, float] = field(default_factory=dict)
    """VMs that are not configured -> when they were reported last; in that order."""
    _looked_at: float = 0.0
    _listens_until: float = 0.0

    def __post_init__(self) -> None:
        """Begin now."""
        self._looked_at = self._listens_until = self.floor

    def passed(self, now: float) -> dict[str, Replica]:
        """Look at the clock, every second at least; return the replicas that are gone."""
        if now - self._looked_at > AWAY_S:
            self._listens_until = now + AWAY_S
        self._looked_at = now
        self._forget_unknown(now)
        if self.listens(now):
            return {}
        gone = {}
        for name, replica in self.silent(now).items():
            ends = replica.heard_at + replica.lease_s
            self._used_until(replica, min(now, ends))
            if now >= ends:
                gone[name] = self.replicas.pop(name)  # it answers nothing warm any more until it registers again
        return gone

    def listens(self, now: float) -> bool:
        """Say whether the reaper was held up, and has to hear the others before it judges anything."""
        return now < self._listens_until

    def knows(self, report: Report) -> bool:
        """Say whether this start of a replica is registered, with this lease."""
        known = self.replicas.get(report.replica)
        return known is not None and (known.instance, known.lease_s) == (report.instance, report.lease_s)

    def refuse_if_full(self, name: str) -> None:
        """Raise Refused if there are too many replicas for one more of this name."""
        if name not in self.replicas and len(self.replicas) >= MAX_REPLICAS:
            raise Refused(f"{MAX_REPLICAS} dns replicas are registered already")

    def remember(self, name: str, lease_s: float, now: float, service: str = "dns", host: str | None = None) -> None:
        """Take in a replica that an earlier reaper knew: it may still answer."""
        self.informed |= service == "dns"
        self.replicas[name] = Replica("", 0, now, lease_s, service, host)

    def report(self, report: Report, now: float, wall: float) -> None:
        """Take a report; raises Refused if there are too many replicas. `wall` is Unix time."""
        self.informed |= report.service == "dns"
        known = self.replicas.get(report.replica)
        self.refuse_if_full(report.replica)
        if known is not None and known.instance == report.instance and report.batch <= known.batch:
            known.heard_at = now  # sent again because the answer was lost
            return
        if known is not None and known.instance != report.instance:
            self._used_until(known, now)
        if report.leaving:
            self.replicas.pop(report.replica, None)
        else:
            self.replicas[report.replica] = Replica(
                report.instance,
                report.batch,
                now,
                report.lease_s,
                report.service,
                report.host,
                frozenset(islice(report.drains, MAX_HONOURED)),
            )
        for n, use in enumerate(report.uses):
            self.used(use.vm, now - use.age_s)
            if use.vm not in self._configured:
                self._is_unknown(use.vm, now)
            if not use.name:
                continue
            ttl = report.ttls[n] if n < len(report.ttls) else None
            self._lifetimes(use.vm).answered(now - use.age_s, ttl, now)
            if not self._is_counted(use.vm, use.name):
                continue
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

    def is_foreign(self, vm: str, name: str) -> bool:
        """Say whether a name is reported that no VM is configured to have."""
        return (vm, name) in self._foreign

    def total(self, vm: str, name: str) -> Total:
        """Return the statistics of a name, which begin at nothing."""
        total = self.totals.get((vm, name))
        if total is None:
            total = self.totals[vm, name] = Total()
            self._names.setdefault(vm, []).append(name)
        return total

    def used(self, vm: str, at: float) -> None:
        """Note that a VM was in use at that time."""
        self._used[vm] = max(self._used.get(vm, at), at)

    def configured(self, vm: str, ttl: int, names: Iterable[str] = ()) -> None:
        """Note a VM's names and the longest of their TTLs, as configured now."""
        if vm not in self._configured:
            self._unknown.pop(vm, None)
            self.used(vm, self._looked_at)
        self._configured[vm] = frozenset(names)
        self._foreign -= {(vm, name) for name in self._configured[vm]}
        self._lifetimes(vm).configured(ttl, self._looked_at)

    def answered_before(self, vm: str, name: str, ttl: int) -> None:
        """Note the TTL of the answers of which an earlier reaper was told last."""
        self.total(vm, name).ttl = ttl
        self._lifetimes(vm).answered(self.floor, ttl, self._looked_at)

    def valid_until(self, vm: str, host: str) -> float:
        """Return when no answer for the VM is within its TTL any more, as far as could be ruled out by `passed`."""
        lifetimes = self._lifetimes(vm)
        floor = max(self._floor(None), self._floor(host))
        return max(lifetimes.until, floor + lifetimes.longest(self._looked_at))

    def _lifetimes(self, vm: str) -> AnswerLifetimes:
        found = self._answers.get(vm)
        if found is None:
            found = self._answers[vm] = AnswerLifetimes()
        return found

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self._configured.pop(vm, None)
        self._unknown.pop(vm, None)
        self._used.pop(vm, None)
        self._answers.pop(vm, None)
        for name in self._names.pop(vm, ()):
            del self.totals[vm, name]
            self._foreign.discard((vm, name))
            self.unsaved.pop((vm, name), None)
            self.unsaved_ttls.pop((vm, name), None)

    def _is_unknown(self, vm: str, now: float) -> None:
        self._unknown.pop(vm, None)
        self._unknown[vm] = now
        if len(self._unknown) > MAX_UNKNOWN:
            self.forget(next(iter(self._unknown)))

    def _forget_unknown(self, now: float) -> None:
        while self._unknown and now - self._unknown[oldest := next(iter(self._unknown))] >= UNKNOWN_S:
            self.forget(oldest)

    def save_again(self) -> None:
        """Note that the store may have lost what it was told last."""
        self.unsaved |= dict.fromkeys(self.totals)
        self.unsaved_ttls |= dict.fromkeys(key for key, total in self.totals.items() if total.ttl)

    def last_use(self, vm: str, host: str) -> float:
        """Return when the VM was used last, as far as could be ruled out by `passed` that it was later."""
        floor = max(self._floor(None), self._floor(host))
        return max(floor, self._used.get(vm, floor))

    def _used_until(self, replica: Replica, at: float) -> None:
        """Count the VMs that a replica is about as used until then; all VMs, if there are too many hosts."""
        host = replica.host
        if host not in self._floors and len(self._floors) >= MAX_FLOORS:
            host = None
        self._floors[host] = max(self._floor(host), at)

    def _floor(self, host: str | None) -> float:
        return max(self.floor, self._floors.get(host, self.floor))

    def silent(self, now: float) -> dict[str, Replica]:
        """Return the replicas that are not heard from."""
        return {name: replica for name, replica in self.replicas.items() if now - replica.heard_at >= SILENT_S}

    def all_honour(self, drain: str, host: str) -> bool:
        """Say whether every replica that has to do with a VM of this host has acknowledged its drain."""
        return all(drain in replica.drains for replica in self.replicas.values() if replica.is_about(host))
