"""What is recorded of each VM for `jitsu why`: its last boots and stops, and the clients that were noticed last.

    fact                                  noticed by                      bounds
    who caused a boot: name, packet       dns or synjitsu, with a token   MAX_TOKENS, for TOKEN_S
    that it booted, how long it took      vmd (VmStatus.boot)             MAX_EVENTS of one VM, MAX_ALL_EVENTS
    that it stopped, and why              vmd (VmStatus.stop)             the same
    that it was idle, or made room        the reaper itself               one of each VM that is being stopped
    clients that are answered at once     dns, synjitsu (samples)         MAX_CLIENTS of one VM, MAX_ALL_CLIENTS

A boot and the client that caused it come by different ways, and in any order. The summon has a token (`Summon.by`) that
both carry, so that each is matched exactly, and not by its time. A boot whose client is never reported, because the
reporter has died, is recorded without.

None of this decides anything. When there is too much, what is oldest goes first, and what is older than KEPT_S goes
in any case. Times are Unix times, because they outlive the process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from jitsu_protocol.model.states import AT_REST, VmState

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from jitsu_protocol.messages import Connected, NotedClient, Report, VmBoot, VmStatus, VmStop

MAX_EVENTS = 20
"""Of one VM: ten boots with their stops."""
MAX_ALL_EVENTS = 50_000
"""Some 25 MB of memory, and 10 MB of the file."""
MAX_CLIENTS = 8
MAX_ALL_CLIENTS = 40_000
MAX_TOKENS = 2_000
TOKEN_S = 60.0
"""A summon and the report that explains it come within seconds of each other."""
MAX_REFUSALS = 3
"""Of one VM: drains that came to nothing."""
MAX_ALL_REFUSALS = 10_000
MAX_CONNECTED = 20_000
CONNECTED_S = 90.0
"""Synjitsu repeats every 30 s who is connected to a VM."""
KEPT_S = 30 * 86400.0
SAME_BOOT_S = 5.0
"""Two accounts of when a guest was started may differ by this much and mean the same boot."""
MAX_NOTE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A boot or a stop, as a WhyEvent has it."""

    what: str
    ts: float
    cause: str
    by: str
    mono: float = 0.0
    """vmd's own time of it, which identifies it; 0 if it is not vmd's."""
    token: str = ""
    """Of the summon; a report may yet explain it."""
    about: str = ""
    client: str = ""
    took_s: float | None = None
    outcome: str = ""


class ClientKey(NamedTuple):
    """What makes two uses the same for a person."""

    what: str
    about: str
    client: str
    reporter: str


class Noticed(NamedTuple):
    """When that was, and how often."""

    ts: float
    times: int


class Refusal(NamedTuple):
    """A drain that came to nothing."""

    ts: float
    reason: str


@dataclass
class VmRecord:
    """Of one VM."""

    events: list[Occurrence] = field(default_factory=list)
    """The latest is last."""
    clients: OrderedDict[ClientKey, Noticed] = field(default_factory=OrderedDict)
    """The latest is last."""


@dataclass
class Unsaved:
    """What the file does not have yet."""

    events: list[tuple[str, Occurrence]] = field(default_factory=list)
    clients: dict[str, None] = field(default_factory=dict)
    """VMs whose clients have changed."""
    gone: list[str] = field(default_factory=list)
    """VMs of which nothing is kept any longer."""

    @property
    def is_due(self) -> bool:
        """Say whether it should be written soon. Clients change all the time, and are written now and then."""
        return bool(self.events or self.gone)


class Recorded:
    """Of all VMs."""

    def __init__(self) -> None:
        self.vms: OrderedDict[str, VmRecord] = OrderedDict()
        """The one of which something was recorded last is at the end."""
        self.unsaved = Unsaved()
        self._connected: OrderedDict[str, tuple[float, Connected]] = OrderedDict()
        """VM -> when that was reported, and by whom it is connected."""
        self.refusals: OrderedDict[str, list[Refusal]] = OrderedDict()
        self._decided: dict[str, tuple[str, str]] = {}
        """VM that is being stopped -> why this reaper decided that: `idle` or `room`, and a text."""
        self._tokens: OrderedDict[str, tuple[float, str, NotedClient]] = OrderedDict()
        """Token -> when it came, from whom, and the client."""
        self._heard: dict[str, float] = {}
        """VM -> when its status came: the ages in it are from then."""
        self._events = self._clients = 0

    # --- what is noticed ---

    def report(self, report: Report, wall: float, vms: Container[str]) -> None:
        """Note what a reporter says of the clients of these VMs: made-up ones must not displace what is known."""
        for asked in report.asked:
            if asked.vm not in vms:
                continue
            key = ClientKey(asked.what, asked.about, asked.client, report.replica)
            self._note_client(asked.vm, key, _ts(wall, asked.age_s))
            if asked.token:
                self._explain(asked, report.replica, wall)
        for each in report.connected:
            self._connected.pop(each.vm, None)
            if each.vm in vms and (each.open or each.unseen):
                self._connected[each.vm] = wall, each
        while len(self._connected) > MAX_CONNECTED:
            self._connected.popitem(last=False)

    def status(self, status: VmStatus, wall: float) -> None:
        """Note what vmd says of the last boot and the last stop of a VM."""
        vm, boot, stop = status.uuid, status.boot, status.stop
        self._heard[vm] = wall
        if boot is not None:
            self._put(vm, self._boot(boot, stop, wall))
        elif status.state in (VmState.READY, VmState.DRAINING) and not self._was_up(vm):
            started = _ts(wall, status.up_s if status.up_s is not None else status.state_age_s)
            self._put(vm, Occurrence("boot", started, "found", "vmd", outcome="ready"))
        if stop is not None and stop.why != "failed":
            self._put(vm, self._stop(vm, stop, wall))
        elif stop is None and status.state in AT_REST and self._was_up(vm):
            self._put(vm, self._unexplained(status, wall))
        if status.state in AT_REST:
            self._decided.pop(vm, None)
            self._connected.pop(vm, None)

    def heard_ago(self, vm: str, wall: float) -> float:
        """Return how old the ages in the status of a VM are."""
        return max(wall - self._heard.get(vm, wall), 0.0)

    def connections_of(self, vm: str, wall: float) -> Connected | None:
        """Return who is connected to a VM; None if nobody is, or if that was reported too long ago."""
        at, connected = self._connected.get(vm, (0.0, None))
        return connected if wall - at < CONNECTED_S else None

    def decided(self, vm: str, why: str, text: str) -> None:
        """Note why the reaper has a VM stopped: vmd knows only that it was asked to."""
        self._decided[vm] = (why, text[:MAX_NOTE_CHARACTERS])

    def refused(self, vm: str, reason: str, wall: float) -> None:
        """Note why a drain came to nothing."""
        kept = self.refusals.pop(vm, [])
        self.refusals[vm] = [*kept, Refusal(wall, reason[:MAX_NOTE_CHARACTERS])][-MAX_REFUSALS:]
        if len(self.refusals) > MAX_ALL_REFUSALS:
            self.refusals.popitem(last=False)

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self._drop(vm)
        self._connected.pop(vm, None)
        self._heard.pop(vm, None)
        self.refusals.pop(vm, None)
        self._decided.pop(vm, None)

    def _drop(self, vm: str) -> None:
        if (record := self.vms.pop(vm, None)) is not None:
            self._events -= len(record.events)
            self._clients -= len(record.clients)
            self.unsaved.gone.append(vm)

    def keep_only(self, vms: Container[str]) -> None:
        """Forget all others: they were removed while no reaper ran."""
        for vm in [vm for vm in self.vms if vm not in vms]:
            self.forget(vm)

    def clear(self) -> None:
        """Forget everything: an operator wants that."""
        heard = self._heard
        self.__init__()  # type: ignore[misc]
        self._heard = heard

    def expire(self, wall: float) -> bool:
        """Forget what is too old; return whether there was any."""
        oldest, found = wall - KEPT_S, False
        for vm, record in list(self.vms.items()):
            events = [each for each in record.events if each.ts >= oldest]
            clients = [key for key, noticed in record.clients.items() if noticed.ts < oldest]
            if len(events) == len(record.events) and not clients:
                continue
            found = True
            self._events -= len(record.events) - len(events)
            self._clients -= len(clients)
            record.events = events
            for key in clients:
                del record.clients[key]
            if not record.events and not record.clients:
                self.forget(vm)
        return found

    # --- what the file has ---

    def restore_event(self, vm: str, event: Occurrence) -> None:
        """Take over a boot or a stop that an earlier reaper recorded."""
        self._put(vm, event)
        self.unsaved.events.clear()

    def restore_clients(self, vm: str, clients: Iterable[tuple[ClientKey, Noticed]]) -> None:
        """Take over the clients that an earlier reaper recorded of a VM."""
        record = self._record(vm)
        self._clients -= len(record.clients)
        record.clients = OrderedDict(list(clients)[-MAX_CLIENTS:])
        self._clients += len(record.clients)
        self._displace()

    # --- one fact ---

    def _was_up(self, vm: str) -> bool:
        """Say whether the last that is recorded of a VM is that it runs."""
        record = self.vms.get(vm)
        last = record.events[-1] if record is not None and record.events else None
        return last is not None and last.what == "boot" and not last.outcome.startswith("failed")

    def _boot(self, boot: VmBoot, stop: VmStop | None, wall: float) -> Occurrence:
        found = Occurrence(
            "boot", _ts(wall, boot.age_s), boot.trigger, "", boot.begun_mono, boot.by, took_s=boot.took_s
        )
        if boot.trigger == "operator":
            found = replace(found, by=boot.by or "an operator", token="")
        elif boot.trigger == "schedule":
            found = replace(found, by="vmd", token="")
        elif (explained := self._tokens.get(boot.by)) is not None:
            _, reporter, asked = explained
            found = _explained(found, asked, reporter)
        else:
            unnamed = "a dns replica" if boot.trigger == "dns" else "Synjitsu"
            found = replace(found, by=boot.by.rpartition("#")[0] or unnamed)
        if boot.took_s is not None:
            return replace(found, outcome="ready")
        if stop is not None and stop.why == "failed" and stop.begun_mono >= boot.begun_mono:
            return replace(found, outcome=f"failed: {stop.note}"[:MAX_NOTE_CHARACTERS])
        return found

    def _stop(self, vm: str, stop: VmStop, wall: float) -> Occurrence:
        why, text = stop.why, stop.note
        by = {"operator": stop.by or "an operator", "ended": "the VM itself", "crashed": "the VM itself"}.get(
            why, "vmd"
        )
        if why == "idle":
            why, text = self._decided.get(vm, (why, text))
            by = "the reaper"
        outcome = "" if stop.took_s is None else "stopped"
        return Occurrence(
            "stop",
            _ts(wall, stop.age_s),
            why,
            by,
            stop.begun_mono,
            about=text[:MAX_NOTE_CHARACTERS],
            took_s=stop.took_s,
            outcome=outcome,
        )

    def _unexplained(self, status: VmStatus, wall: float) -> Occurrence:
        """Return a stop of which vmd, which is older, does not say why."""
        why, text = self._decided.get(status.uuid, ("unknown", status.last_error[:MAX_NOTE_CHARACTERS]))
        by = "the reaper" if why in ("idle", "room") else "vmd"
        return Occurrence("stop", _ts(wall, status.state_age_s), why, by, about=text, outcome="stopped")

    def _explain(self, asked: NotedClient, reporter: str, wall: float) -> None:
        """Note which client a token means, and complete the boot that it has caused."""
        self._tokens[asked.token] = (wall, reporter, asked)
        while self._tokens and (len(self._tokens) > MAX_TOKENS or self._is_old(wall)):
            self._tokens.popitem(last=False)
        record = self.vms.get(asked.vm)
        for event in reversed(record.events if record is not None else ()):
            if event.what == "boot" and event.token == asked.token:
                self._put(asked.vm, _explained(event, asked, reporter))
                return

    def _is_old(self, wall: float) -> bool:
        at, _, _ = next(iter(self._tokens.values()))
        return wall - at > TOKEN_S

    def _put(self, vm: str, event: Occurrence) -> None:
        """Add an event, or replace what was known of it before."""
        record = self._record(vm)
        same = next((n for n, each in enumerate(record.events) if _is_same(each, event)), None)
        if same is not None:
            merged = _merged(record.events[same], event)
            if merged == record.events[same]:
                return
            event = record.events[same] = merged
        else:
            record.events.append(event)
            record.events.sort(key=lambda each: each.ts)
            self._events += 1
            if len(record.events) > MAX_EVENTS:
                oldest = record.events.pop(0)
                self._events -= 1
                if oldest is event:
                    return
            self._displace()
        self.unsaved.events.append((vm, event))

    def _note_client(self, vm: str, key: ClientKey, ts: float) -> None:
        clients = self._record(vm).clients
        known = clients.pop(key, None)
        clients[key] = Noticed(ts, 1) if known is None else Noticed(max(ts, known.ts), known.times + 1)
        if known is None:
            self._clients += 1
        if len(clients) > MAX_CLIENTS:
            clients.popitem(last=False)
            self._clients -= 1
        self.unsaved.clients[vm] = None
        self._displace()

    def _record(self, vm: str) -> VmRecord:
        record = self.vms.get(vm)
        if record is None:
            record = self.vms[vm] = VmRecord()
        else:
            self.vms.move_to_end(vm)
        return record

    def _displace(self) -> None:
        while self._events > MAX_ALL_EVENTS or self._clients > MAX_ALL_CLIENTS or len(self.vms) > MAX_ALL_EVENTS:
            self._drop(next(iter(self.vms)))


def _ts(wall: float, age_s: float) -> float:
    """Return when that was; an age that makes no sense may not become a time that nobody can print."""
    return wall - min(max(age_s, 0.0), KEPT_S)


def _explained(boot: Occurrence, asked: NotedClient, reporter: str) -> Occurrence:
    return replace(boot, cause=asked.what, by=reporter, about=asked.about, client=asked.client)


def _is_same(one: Occurrence, other: Occurrence) -> bool:
    return (
        one.what == other.what and one.mono == other.mono and (bool(one.mono) or abs(one.ts - other.ts) < SAME_BOOT_S)
    )


def _merged(old: Occurrence, new: Occurrence) -> Occurrence:
    """Return what is known of an event by two accounts: who caused it by the first, how it ended by the latest."""
    explained = old if old.client or old.about or old.cause not in ("dns", "traffic", "unknown", "idle") else new
    return replace(
        explained,
        ts=old.ts,
        took_s=old.took_s if new.took_s is None else new.took_s,
        outcome=new.outcome or old.outcome,
    )
