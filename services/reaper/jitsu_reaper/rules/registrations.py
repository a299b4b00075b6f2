"""Which reporters the store knows of, so that a reaper that comes after this one knows who may still be answering.

A new reporter, or a new start of one, is registered before its report is acknowledged; until then it answers nothing
warm. One that leaves is removed, and so is one whose lease has run out: a later reaper need not wait for it.

    what happens                         then
    a reporter that is not known reports Register with its lease; its report counts once the store has taken it
    a known one reports that it leaves   Register with every leaf removed
    its lease has run out                the same, within a second; again a second later if the store does not answer
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import REPLICA_ROOT
from jitsu_reaper.rules.reporters import MAX_REPORTERS
from jitsu_reaper.rules.statistics import number_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_protocol.messages import Report
    from jitsu_reaper.rules.reporters import Reporter, Reporters
    from jitsu_reaper.rules.usage import ReporterGone


@dataclass(frozen=True)
class Registration:
    """A change of what the store knows of one reporter."""

    name: str
    leaves: dict[str, str | None]
    """None for what is removed."""
    message: str


@dataclass
class Registrations:
    """What is to be registered, and removed."""

    reporters: Reporters
    _gone: dict[str, Reporter] = field(default_factory=dict)
    """Those that the store still has to forget."""

    def remember(self, leaves: Mapping[str, str], now: float) -> None:
        """Take over what an earlier reaper registered."""
        for path, value in leaves.items():
            name, _, leaf = path.removeprefix(REPLICA_ROOT + "/").partition("/")
            if leaf == "lease_s":
                service = leaves.get(f"{REPLICA_ROOT}/{name}/service") or "dns"
                host = leaves.get(f"{REPLICA_ROOT}/{name}/host")
                self.reporters.remember(name, number_in(value), now, service, host)

    def needed(self, report: Report) -> Registration | None:
        """Return what the store has to take before a report counts; raises Refused if there are too many."""
        is_known = self.reporters.knows(report)
        if report.replica not in self.reporters.known if report.leaving else is_known:
            return None
        self.reporters.refuse_if_full(report.replica)
        if len(self._gone) >= MAX_REPORTERS:
            raise Refused("too many replicas have gone and are still to be removed from the store")
        leaves: dict[str, str | None] = {"lease_s": f"{report.lease_s:g}"}
        if report.service == "dns":
            leaves["address"] = report.address
        else:
            leaves |= {"service": report.service, "host": report.host or ""}
        if report.leaving:
            return _registration(report.replica, report.service, dict.fromkeys(leaves), "left")
        return _registration(report.replica, report.service, leaves, "registered")

    def note_gone(self, gone: Iterable[ReporterGone]) -> None:
        """Note whose lease has run out."""
        self._gone |= {each.name: each.reporter for each in gone}

    def to_remove(self) -> list[Registration]:
        """Return how the store forgets those that are gone and have not come back."""
        self._gone = {name: each for name, each in self._gone.items() if name not in self.reporters.known}
        return [
            _registration(
                name,
                each.service,
                dict.fromkeys(("lease_s", "address") if each.service == "dns" else ("lease_s", "service", "host")),
                "gone: its lease has run out",
            )
            for name, each in self._gone.items()
        ]

    def removed(self, name: str) -> None:
        """Note that the store has forgotten one."""
        self._gone.pop(name, None)


def _registration(name: str, service: str, leaves: dict[str, str | None], what: str) -> Registration:
    return Registration(name, leaves, f"{'Replica ' if service == 'dns' else ''}{name} {what}")
