"""The reporters of use, which are the dns replicas and Synjitsu; and what the silence of one of them means (G3, G8).

A dns replica goes on answering for ready VMs until its lease has run out, even if nobody hears from it. So one that is
silent counts as use of every VM until then. While Synjitsu is silent, clients may be connected to the VMs of its host,
and its lease is as long as such a connection may be idle.

    a reporter    what happens                 then it is
    heard         SILENT_S without a report    silent: the VMs that it is about count as used until now
    silent        it reports                   heard
    silent        its lease is over            gone: the VMs count as used when the lease ended, and no later
    any           another start of it reports  heard; the VMs count as used now: one that died did not report the use
                                               of its last second

A reaper that was suspended (its host swaps, its container is paused) has heard nobody in that time, and their reports
wait to be read. It judges silence again once it has listened for SUSPENDED_S. All times are the reaper's own monotonic
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from jitsu_protocol.messages import Report

    class Hearing(Protocol):
        """Whose feeds are heard at this moment."""

        def hears_store(self) -> bool:
            """Say whether the store is heard and nothing was missed."""

        def hears_vmds(self) -> Mapping[str, bool]:
            """Say the same of the vmd of each host."""


SILENT_S = 4.0
"""Everybody reports every second; four missing reports are silence."""
SUSPENDED_S = 2.0
"""The reaper looks at the clock every second; if that is later than this, it was suspended."""
MAX_REPORTERS = 1000
MAX_ACKNOWLEDGED = 2000
"""Drains that one reporter is believed to acknowledge; at most 64 are under way on each host."""
MAX_FLOORS = 1000
"""Hosts of which it is noted until when their VMs count as used."""
MAX_WARNINGS = 20
"""Of one reporter, each of MAX_WARNING_CHARACTERS: what a peer sends is bounded before it is shown."""
MAX_WARNING_CHARACTERS = 200


@dataclass
class Reporter:
    """One dns replica, or one Synjitsu, as far as it is known."""

    instance: str
    """Changes at each start of it; empty for one that an earlier reaper knew."""
    batch: int
    heard_at: float
    lease_s: float
    service: str = "dns"
    host: str | None = None
    """The host whose VMs it is about; None for all."""
    drains: frozenset[str] = frozenset()
    """Drains that it has acknowledged."""
    warnings: tuple[str, ...] = ()
    """What an operator should put right."""

    def is_about(self, host: str) -> bool:
        """Say whether it has to do with the VMs of a host."""
        return self.host is None or self.host == host


@dataclass
class Obstacles:
    """Why nothing may be stopped now."""

    everywhere: str = ""
    """On any host; empty if VMs may be stopped on some."""
    on_host: Mapping[str, str] = field(default_factory=dict)
    """On single hosts."""

    def notes(self) -> list[str]:
        """Return them for `jitsu status`."""
        if self.everywhere:
            return [f"stops nothing: {self.everywhere}"]
        return [f"stops nothing{f' on {host}' if host else ''}: {why}" for host, why in sorted(self.on_host.items())]


@dataclass
class Reporters:
    """All that are known."""

    floor: float
    """When the reaper started: it does not know what was used before, so everything counts as used then."""
    known: dict[str, Reporter] = field(default_factory=dict)
    informed: bool = False
    """Some dns replica has been heard of, ever."""
    _floors: dict[str | None, float] = field(default_factory=dict)
    """Until when all VMs of a host, or (None) of all hosts, count as used."""
    _why: dict[str | None, str] = field(default_factory=dict)
    """The same hosts -> what happened then, for `jitsu why`."""
    _ticked_at: float = 0.0
    _listens_until: float = 0.0

    def __post_init__(self) -> None:
        """Begin now."""
        self._ticked_at = self._listens_until = self.floor

    def tick(self, now: float) -> dict[str, Reporter]:
        """Judge silence, every second at least; return those that are gone."""
        if now - self._ticked_at > SUSPENDED_S:
            self._listens_until = now + SUSPENDED_S
        self._ticked_at = now
        if self.listens(now):
            return {}
        gone = {}
        for name, reporter in self.silent(now).items():
            ends = reporter.heard_at + reporter.lease_s
            self._used_until(reporter, min(now, ends), f"{name} was not heard")
            if now >= ends:
                gone[name] = self.known.pop(name)  # it answers nothing warm until it has registered again
        return gone

    def listens(self, now: float) -> bool:
        """Say whether the reaper was suspended, and has to hear the others before it judges anything."""
        return now < self._listens_until

    def knows(self, report: Report) -> bool:
        """Say whether this start of a reporter is registered, with this lease."""
        known = self.known.get(report.replica)
        return known is not None and (known.instance, known.lease_s) == (report.instance, report.lease_s)

    def refuse_if_full(self, name: str) -> None:
        """Raise Refused if there are too many reporters for one more of this name."""
        if name not in self.known and len(self.known) >= MAX_REPORTERS:
            raise Refused(f"{MAX_REPORTERS} dns replicas are registered already")

    def remember(self, name: str, lease_s: float, now: float, service: str = "dns", host: str | None = None) -> None:
        """Note one that an earlier reaper knew: it may still answer."""
        self.informed |= service == "dns"
        self.known[name] = Reporter("", 0, now, lease_s, service, host)

    def report(self, report: Report, now: float) -> bool:
        """Note who reports, and say whether what it reports is new; raises Refused if there are too many."""
        self.informed |= report.service == "dns"
        known = self.known.get(report.replica)
        self.refuse_if_full(report.replica)
        if known is not None and known.instance == report.instance and report.batch <= known.batch:
            known.heard_at = now  # it was sent again because the reply was lost
            return False
        if known is not None and known.instance != report.instance:
            self._used_until(known, now, f"{report.replica} was started again")
        if report.leaving:
            self.known.pop(report.replica, None)
            return True
        self.known[report.replica] = Reporter(
            report.instance,
            report.batch,
            now,
            report.lease_s,
            report.service,
            report.host,
            frozenset(islice(report.drains, MAX_ACKNOWLEDGED)),
            tuple(warning[:MAX_WARNING_CHARACTERS] for warning in islice(report.warnings, MAX_WARNINGS)),
        )
        return True

    def used_until(self, host: str) -> float:
        """Return until when all VMs of a host count as used, whatever is known of each of them."""
        return max(self._floor(None), self._floor(host))

    def why_used(self, host: str) -> str:
        """Return what happened at `used_until`, as the beginning of a sentence."""
        latest = max((None, host), key=self._floor)
        return self._why.get(latest, "the reaper started")

    def silent(self, now: float) -> dict[str, Reporter]:
        """Return those that are not heard."""
        return {name: reporter for name, reporter in self.known.items() if now - reporter.heard_at >= SILENT_S}

    def all_acknowledge(self, drain: str, host: str) -> bool:
        """Say whether everybody who has to do with a VM of this host has acknowledged its drain."""
        return all(drain in reporter.drains for reporter in self.known.values() if reporter.is_about(host))

    def obstacles(self, hearing: Hearing, now: float) -> Obstacles:
        """Return why nothing may be stopped: whoever is not heard may know of use that the reaper does not (G8)."""
        if not hearing.hears_store():
            return Obstacles("the store is silent")
        vmds = hearing.hears_vmds()
        on_host = {host: "its vmd is silent" for host, is_heard in vmds.items() if not is_heard}
        if len(on_host) == len(vmds):
            return Obstacles("vmd is silent", on_host)
        if not self.informed:
            return Obstacles("no dns replica has reported yet", on_host)
        for name, reporter in self.silent(now).items():
            if reporter.host is None:
                return Obstacles(f"dns replica {name} is silent and may still answer", on_host)
            on_host[reporter.host] = f"{name} is silent, and a client may be connected"
        return Obstacles("", on_host)

    def heard(self, service: str, now: float) -> str:
        """Return for `jitsu status` who of one service is known, and when each was heard."""
        return ", ".join(
            f"{name} (heard {now - each.heard_at:.1f} s ago)"
            for name, each in sorted(self.known.items())
            if each.service == service
        )

    def warnings(self) -> list[str]:
        """Return for `jitsu status` what the reporters warn of."""
        return [f"{name}: {warning}" for name, each in sorted(self.known.items()) for warning in each.warnings]

    def _used_until(self, reporter: Reporter, at: float, why: str) -> None:
        """Count the VMs that a reporter is about as used until then; all VMs, if there are too many hosts."""
        host = reporter.host
        if host not in self._floors and len(self._floors) >= MAX_FLOORS:
            host = None
        if at >= self._floor(host):
            self._floors[host], self._why[host] = at, why

    def _floor(self, host: str | None) -> float:
        return max(self.floor, self._floors.get(host, self.floor))
