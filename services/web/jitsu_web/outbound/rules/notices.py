"""Which events leave this process, and what is said in them.

    vm.STATE        a VM has come into that state: vm.ready, vm.off, vm.failed and so on
    vm.gone         a VM is no longer configured
    vm.booted       a summon has ended, with its trigger, its outcome and how long it took
    vm.up-long      a VM has been up for longer than `up_longer_than`; once for each time that it is up
    config.commit   a branch has a new commit
    events.lost     events were dropped because the queue was full; says how many

On the wire each is a CloudEvent (version 1.0, JSON format). Its `id` stays the same when it is sent again. What comes
from a VM is cut to a length, because a receiver may be small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jitsu_protocol.deadlines import Deadlines
from jitsu_web.rules.events import CommitEvent, GoneEvent, SummonEvent, VmEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_web.rules.events import WebEvent

SOURCE = "/jitsu"
UP = frozenset({"ready", "draining"})
MAX_TEXT = 500
"""Characters of an error or a commit message."""
MAX_LISTED = 20
"""Names and the like of one VM."""
VM_KINDS = tuple(
    f"vm.{state}"
    for state in (
        "off",
        "starting",
        "booting",
        "ready",
        "draining",
        "stopping",
        "suspended",
        "paused",
        "failed",
        "unknown",
    )
)
KINDS = (*VM_KINDS, "vm.gone", "vm.booted", "vm.up-long", "config.commit", "events.lost")


@dataclass(frozen=True)
class Draft:
    """Something to say, before it has an id."""

    kind: str
    key: str
    """The uuid of the VM that it is about, within which the order is kept; "" if it is about none."""
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Notice:
    """An event as it is recorded and sent."""

    id: str
    ts: float
    """When it happened, in Unix time."""
    kind: str
    key: str
    subject: str
    data: Mapping[str, Any]

    def body(self) -> bytes:
        """Return the CloudEvent."""
        when = datetime.fromtimestamp(self.ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {
            "specversion": "1.0",
            "id": self.id,
            "source": SOURCE,
            "type": f"jitsu.{self.kind}",
            "time": when,
            "subject": self.subject,
            "datacontenttype": "application/json",
            "data": self.data,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def text(self) -> str:
        """Return a sentence for a person."""
        data = self.data
        match self.kind:
            case "vm.failed":
                return f"{self.subject} does not boot: {data.get('last_error') or 'no reason is known'}"
            case "vm.up-long":
                return f"{self.subject} has been up for {_duration(float(data['up_s']))}"
            case "vm.gone":
                return f"{self.subject} is no longer configured"
            case "vm.booted":
                return f"{self.subject} was woken by {data['trigger']}: {data['outcome']} after {data['seconds']:.1f} s"
            case "config.commit":
                return f"{data['author']} changed {self.subject}: {data['message']}"
            case "events.lost":
                return f"{data['count']} events were dropped, because the queue was full"
            case _:
                return f"{self.subject} is {self.kind.removeprefix('vm.')}"


def drafts(event: WebEvent) -> list[Draft]:
    """Return what is said about an event; nothing about most of them."""
    match event:
        case VmEvent() if event.before and event.before != event.state:
            kind = f"vm.{event.state}"
            return [Draft(kind, str(event.vm["uuid"]), event.name, _about(event))] if kind in VM_KINDS else []
        case GoneEvent(uuid, name):
            return [Draft("vm.gone", uuid, name, {"uuid": uuid, "name": name})]
        case SummonEvent(summon):
            return [Draft("vm.booted", str(summon["vm"]), str(summon["name"]), _of_summon(summon))]
        case CommitEvent(branch, commit) if commit:
            about = {"branch": branch, "commit": commit, "author": _cut(event.author), "message": _cut(event.message)}
            return [Draft("config.commit", "", branch, about)]
        case _:
            return []


def _about(event: VmEvent) -> dict[str, Any]:
    vm = event.vm
    return {
        "uuid": vm["uuid"],
        "name": vm["name"],
        "state": event.state,
        "before": event.before,
        "host": vm.get("host", ""),
        "names": [_cut(name) for name in list(vm.get("names", ()))[:MAX_LISTED]],
        "address": vm.get("address", ""),
        "last_error": _cut(str(vm.get("last_error", ""))),
    }


def _of_summon(summon: Mapping[str, Any]) -> dict[str, Any]:
    stages = list(summon.get("stages", ()))
    return {
        "uuid": summon["vm"],
        "name": summon["name"],
        "summon": summon["summon"],
        "trigger": summon["trigger"],
        "outcome": _cut(str(summon["outcome"])),
        "joined": summon.get("joined", 0),
        "seconds": float(stages[-1]["at_s"]) if stages else 0.0,
        "ts": float(summon.get("ts", 0.0)),
        "stages": [[_cut(str(each["name"])), float(each["at_s"])] for each in stages[:MAX_LISTED]],
    }


def _duration(seconds: float) -> str:
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


@dataclass
class UpWatch:
    """Notices when a VM has been up for long. `limit_s` of 0: nobody wants to know."""

    limit_s: float
    _since: dict[str, tuple[str, float]] = field(default_factory=dict)
    """VMs that are up, with their names and since when."""
    _due: Deadlines[str] = field(default_factory=Deadlines)

    def handle(self, event: WebEvent, now: float) -> None:
        """Note whether a VM is up."""
        match event:
            case VmEvent() if self.limit_s > 0:
                uuid = str(event.vm["uuid"])
                if event.state not in UP:
                    self._forget(uuid)
                elif uuid not in self._since:
                    since = now - float(event.vm.get("uptime_s") or 0.0)
                    self._since[uuid] = event.name, since
                    self._due.set(uuid, since + self.limit_s)
            case GoneEvent(uuid):
                self._forget(uuid)
            case _:
                pass

    def deadline(self) -> float | None:
        """Return when the next VM has been up for so long."""
        found = self._due.earliest()
        return None if found is None else found[1]

    def tick(self, now: float) -> list[Draft]:
        """Return what is to be said of VMs that have been up for so long."""
        found = []
        while (uuid := self._due.pop_due(now)) is not None:
            name, since = self._since[uuid]
            data = {"uuid": uuid, "name": name, "up_s": round(now - since, 1), "limit_s": self.limit_s}
            found.append(Draft("vm.up-long", uuid, name, data))
        return found

    def _forget(self, uuid: str) -> None:
        self._since.pop(uuid, None)
        self._due.discard(uuid)
