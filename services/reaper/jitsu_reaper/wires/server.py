"""The reaper's rpc in, its calls out: performs what rules/idle.py asks for."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import (
    Applied,
    CancelDrain,
    Done,
    Drain,
    Draining,
    Record,
    Register,
    Report,
    StopDrained,
)
from jitsu_protocol.model.errors import JitsuError, Refused, Unavailable, UnknownKind
from jitsu_protocol.model.inventory import check_durations
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT
from jitsu_reaper.rules import drain as rules
from jitsu_reaper.rules.activity import MAX_REPLICAS, Activity
from jitsu_reaper.rules.idle import Policy
from jitsu_runtime.bus.follow import follow_states, follow_vms, told
from jitsu_runtime.driver import Alarm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_reaper.rules.activity import Total
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Caller, Followed, World

CALL_TIMEOUT_S = 2.0
MAX_WARNINGS = 20
"""Of one replica, each of so many characters: what a peer sends is bounded before it is shown."""
MAX_WARNING_CHARACTERS = 200
LEAVING_TIMEOUT_S = 0.5
SAVE_S = 1.0
MAX_SAVED_NAMES = 2_000
"""At once: of 100,000 that are used all the time, each is saved every 50 s, and the store has time for changes."""
LOOK_AFTER_S = 0.02
TICK_S = 1.0
"""Silence of a replica or a feed is noticed that often."""

log = structlog.get_logger("reaper")


class ReaperServer:
    """Joins the policy and the bus."""

    def __init__(self, process: World) -> None:
        self._process = process
        self._store = process.client("store")
        self._vmds = process.vmds()
        self._policy = Policy(Activity(floor=monotonic()), process.settings.reaper.drain_limit)
        self._vms: Followed | None = None
        self._states: dict[str, Followed] = {}
        self._warnings: dict[str, list[str]] = {}
        """Replica -> what it warns of."""
        self._alarm = Alarm(self._look, process.clock)
        self._looks = False
        """A look is due soon."""
        metrics = process.metrics
        self._reports = metrics.counter("reports", "Reports taken from replicas.")
        self._drained = metrics.counter("drains", "Drains, by their end.", ["end"])
        metrics.gauge("replicas", "dns replicas known.", lambda: float(len(self._policy.activity.replicas)))

    async def start(self) -> None:
        """Learn what earlier reapers knew, then serve."""
        activity = self._policy.activity
        registered = await told(self._store, REPLICA_ROOT)
        for path, value in registered.items():
            name, _, leaf = path.removeprefix(REPLICA_ROOT + "/").partition("/")
            if leaf == "lease_s":
                leaves = {key: registered.get(f"{REPLICA_ROOT}/{name}/{key}") for key in ("service", "host")}
                activity.remember(name, _number(value), monotonic(), leaves["service"] or "dns", leaves["host"])
        for path, value in (await told(self._store, STATS_ROOT)).items():
            match path.removeprefix(STATS_ROOT + "/").split("/"):
                case [vm, "dns", name, "total_requests"]:
                    activity.total(vm, name).requests = int(_number(value))
                case [vm, "dns", name, "last_request_ts"]:
                    activity.total(vm, name).last_ts = _number(value)
                case [vm, "dns", name, "last_ttl"]:
                    activity.answered_before(vm, name, int(_number(value)))
        _, self._vms = await follow_vms(
            self._process, self._store, self._configured, activity.save_again, check=check_durations
        )
        self._states = follow_states(self._process, self._vmds, self._all_states, self._state)
        self._process.serve({Report: self.report})
        self._process.spawn(self._tick_for_ever(), "tick")
        self._process.spawn(self._save_for_ever(), "save")

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        now = monotonic()
        notes = [f"dns replicas: {self._heard('dns', now) or 'none'}"]
        if synjitsu := self._heard("synjitsu", now):
            notes.append(f"traffic: {synjitsu}")
        if self._policy.blind:
            notes.append(f"stops nothing: {self._policy.blind}")
        else:
            for host, reason in sorted(self._policy.unheard.items()):
                notes.append(f"stops nothing{f' on {host}' if host else ''}: {reason}")
        replicas = self._policy.activity.replicas
        for name, warnings in sorted(self._warnings.items()):
            if name in replicas:
                notes += [f"{name}: {warning}" for warning in warnings]
        return notes

    def _heard(self, service: str, now: float) -> str:
        replicas = self._policy.activity.replicas
        return ", ".join(
            f"{name} (heard {now - each.heard_at:.1f} s ago)"
            for name, each in sorted(replicas.items())
            if each.service == service
        )

    def take(self, settings: Settings) -> None:
        """Take other limits, for drains that begin from now on."""
        self._policy.drain_limit_s = settings.reaper.drain_limit

    async def stop(self) -> None:
        """Save what is not saved, as far as there is time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_TIMEOUT_S):
                while self._policy.activity.unsaved:
                    await self._save()

    async def report(self, report: Report) -> Done:
        """Answer Report.

        A new replica is registered in the store first, so that a reaper that comes after this one knows of it.
        """
        activity = self._policy.activity
        if (report.replica in activity.replicas) if report.leaving else not activity.knows(report):
            activity.refuse_if_full(report.replica)
            if len(self._policy.gone) >= MAX_REPLICAS:
                raise Refused("too many replicas have gone and are still to be removed from the store")
            await self._register(report)
        self._policy.report(report, monotonic(), time.time())
        if report.warnings and not report.leaving:
            for gone in self._warnings.keys() - activity.replicas.keys():
                del self._warnings[gone]
            cut = [warning[:MAX_WARNING_CHARACTERS] for warning in islice(report.warnings, MAX_WARNINGS)]
            self._warnings[report.replica] = cut
        else:
            self._warnings.pop(report.replica, None)
        self._reports.inc()
        self._look_soon()
        return Done()

    async def _register(self, report: Report) -> None:
        leaves = {"lease_s": f"{report.lease_s:g}"}
        if report.service == "dns":
            leaves["address"] = report.address
        else:
            leaves |= {"service": report.service, "host": report.host or ""}
        if report.leaving:
            await self._note(report.replica, report.service, dict.fromkeys(leaves), "left")
        else:
            await self._note(report.replica, report.service, dict(leaves), "registered")

    async def _unregister_gone(self) -> None:
        """Have the store forget who will not say goodbye, so that a reaper that comes after this one waits for none."""
        gone, self._policy.gone = self._policy.gone, {}
        for name, replica in gone.items():
            if name in self._policy.activity.replicas:
                continue  # it is back
            leaves = ("lease_s", "address") if replica.service == "dns" else ("lease_s", "service", "host")
            try:
                await self._note(name, replica.service, dict.fromkeys(leaves), "gone: its lease has run out")
            except JitsuError as error:
                self._policy.gone.setdefault(name, replica)  # once more a second later
                log.debug("still registered", replica=name, reason=str(error))
            else:
                log.warning("gone: its lease has run out", replica=name)

    async def _note(self, replica: str, service: str, leaves: dict[str, str | None], about: str) -> None:
        register = Register(
            replica=replica,
            leaves=leaves,
            message=f"{'Replica ' if service == 'dns' else ''}{replica} {about}",
            request=uuid.uuid4().hex,
        )
        try:
            await self._store.call(register, Applied, CALL_TIMEOUT_S)
        except UnknownKind:  # a store of protocol 1.0
            await self._store.call(register.as_apply(), Applied, CALL_TIMEOUT_S)

    # --- what the others say ---

    def _configured(self, changes: Sequence[VmChanged]) -> None:
        self._policy.configure(changes)
        self._look_soon()

    def _all_states(self, statuses: Sequence[VmStatus], host: str) -> None:
        self._policy.all_states(statuses, monotonic(), host)
        self._look_soon()

    def _state(self, status: VmStatus, gone: bool) -> None:
        self._policy.state(status, monotonic(), gone=gone)
        self._look_soon()

    # --- the policy's shell ---

    def _look_soon(self) -> None:
        """Look once at what many events have changed.

        A look asks who is silent and how each drain stands. With one for each event, hundreds of events a second left
        no time to read what vmd replies, and drains failed for that.
        """
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        """See what the rules want done now, and arm the one timer."""
        self._looks = False
        now = monotonic()
        self._policy.blind = self._blindness()
        for action in self._policy.passed(now):
            match action:
                case rules.AskDrain(vm):
                    self._process.spawn(self._drain(vm))
                case rules.AskStop(vm, drain):
                    self._process.spawn(self._stop(vm, drain))
                case rules.CancelDrain(vm, drain):
                    self._process.spawn(self._cancel(vm, drain))
        due = self._policy.next_deadline(now)
        self._alarm.set(due and max(now + 0.001, due))

    def _blindness(self) -> str:
        """Return why nothing may be stopped; what concerns one host only is noted with the policy."""
        if self._vms is None or not self._vms.is_live():
            return "the store is silent"
        silent = self._policy.activity.silent(monotonic())
        unheard = {host: "its vmd is silent" for host, feed in self._states.items() if not feed.is_live()}
        if len(unheard) == len(self._states):
            return "vmd is silent"
        if not self._policy.activity.informed:
            return "no dns replica has reported yet"
        for name, replica in silent.items():
            if replica.host is None:
                return f"dns replica {name} is silent and may still answer"
            unheard[replica.host] = f"{name} is silent, and a client may be connected"
        self._policy.unheard = unheard
        return ""

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._look()

    async def _drain(self, vm: str) -> None:
        try:
            begun = await self._vmd_of(vm).call(Drain(vm=vm), Draining, CALL_TIMEOUT_S)
        except JitsuError as error:
            log.info("not drained", vm=self._policy.name_of(vm), reason=str(error))
            self._drained.labels("refused").inc()
            self._policy.ended(vm, monotonic())
        else:
            self._policy.begun(vm, begun.drain, monotonic())
        self._look_soon()

    async def _stop(self, vm: str, drain: str) -> None:
        try:
            await self._vmd_of(vm).call(StopDrained(vm=vm, drain=drain), Done, CALL_TIMEOUT_S)
            log.info("idle, stopped", vm=self._policy.name_of(vm))
            self._drained.labels("stopped").inc()
        except JitsuError as error:
            log.info("not stopped", vm=self._policy.name_of(vm), reason=str(error))
            self._drained.labels("refused").inc()
        self._policy.ended(vm, monotonic())
        self._look_soon()

    async def _cancel(self, vm: str, drain: str) -> None:
        self._drained.labels("cancelled").inc()
        try:
            await self._vmd_of(vm).call(CancelDrain(vm=vm, drain=drain), Done, CALL_TIMEOUT_S)
        except JitsuError as error:
            log.info("vmd takes the drain back by itself", vm=self._policy.name_of(vm), reason=str(error))

    def _vmd_of(self, vm: str) -> Caller:
        """Return the vmd of the host on which a VM is; raises Unavailable if no host has it any more."""
        host = self._policy.host_of(vm)
        if host not in self._vmds:
            raise Unavailable(f"no host has {self._policy.name_of(vm)} any more")
        return self._vmds[host]

    # --- statistics ---

    async def _save_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self._save()
            await self._save_ttls()
            await self._unregister_gone()

    async def _save_ttls(self) -> None:
        """Save the TTLs that answers had: a reaper that comes after this one needs those that were lowered since.

        They rarely change, and a store of protocol 1.1 takes none.
        """
        activity = self._policy.activity
        saving = list(islice(activity.unsaved_ttls, MAX_SAVED_NAMES))
        for key in saving:
            del activity.unsaved_ttls[key]
        try:
            await self._record(saving, lambda path, total: {f"{path}/last_ttl": str(total.ttl)})
        except Refused as error:
            log.debug("the store refuses the TTLs", reason=str(error))
        except JitsuError as error:
            activity.unsaved_ttls |= {key: None for key in saving if key in activity.totals}
            log.debug("TTLs are kept until the store answers", reason=str(error))

    async def _save(self) -> None:
        activity = self._policy.activity
        saving = list(islice(activity.unsaved, MAX_SAVED_NAMES))
        for key in saving:
            del activity.unsaved[key]
        try:
            await self._record(
                saving,
                lambda path, total: {
                    f"{path}/total_requests": str(total.requests),
                    f"{path}/last_request_ts": f"{total.last_ts:.6f}",
                },
            )
        except JitsuError as error:
            activity.unsaved |= {key: None for key in saving if key in activity.totals}
            log.warning("statistics are kept until the store answers", reason=str(error))

    async def _record(
        self, names: Iterable[tuple[str, str]], values_of: Callable[[str, Total], dict[str, str]]
    ) -> None:
        """Have the store record statistics of names that there still are.

        Those of names that are not configured go apart: whoever reports them may have made them up, and what the store
        refuses of them must not keep the others from being saved.
        """
        activity = self._policy.activity
        own, foreign = dict[str, str](), dict[str, str]()
        for vm, name in names:
            if (vm, name) in activity.totals:
                values = foreign if activity.is_foreign(vm, name) else own
                values |= values_of(f"{STATS_ROOT}/{vm}/dns/{name}", activity.totals[vm, name])
        if foreign:
            try:
                await self._store.call(Record(values=foreign, service="reaper"), Done, CALL_TIMEOUT_S)
            except JitsuError as error:
                log.debug("the store takes no statistics of names that are not configured", reason=str(error))
        if own:
            await self._store.call(Record(values=own, service="reaper"), Done, CALL_TIMEOUT_S)


def _number(text: str) -> float:
    """Return a number that the store has; 0 for what is none, or has no end: others may have written it."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
