"""The reaper's wires: what arrives becomes an event, and what the machine wants done becomes a call."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import CancelDrain, Done, Drain, Draining, ForgetClients, Report, StopDrained, Why
from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_protocol.model.inventory import check_durations
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT
from jitsu_reaper.rules.drain import AskDrain, AskStop, DrainBegun, DrainEnded, TakeBackDrain
from jitsu_reaper.rules.events import (
    ReaperEvent,
    SaveEnded,
    StateChanged,
    StatesListed,
    StoreReturned,
    UsageReported,
    VmsConfigured,
)
from jitsu_reaper.rules.reaper import Reaper, ReaperAction, Save
from jitsu_reaper.rules.recorder import WriteRecord
from jitsu_reaper.wires.keeping import CALL_TIMEOUT_S, Keeper
from jitsu_reaper.wires.record_file import RecordFile
from jitsu_reaper.wires.vm_metrics import UsageMetrics
from jitsu_runtime.bus.follow import fetch_leaves, follow_states, follow_vms
from jitsu_runtime.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.messages import WhyReport
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Caller, Followed, World

LEAVING_TIMEOUT_S = 0.5

log = structlog.get_logger("reaper")


class Ears:
    """The feeds of the store and of each vmd."""

    def __init__(self) -> None:
        self.store: Followed | None = None
        self.vmds: dict[str, Followed] = {}

    def hears_store(self) -> bool:
        """Say whether the store is heard and nothing was missed."""
        return self.store is not None and self.store.is_live()

    def hears_vmds(self) -> Mapping[str, bool]:
        """Say the same of the vmd of each host."""
        return {host: feed.is_live() for host, feed in self.vmds.items()}


class ReaperServer:
    """Joins the machine and the bus."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.client("store")
        self._vmds = world.vmds()
        self._ears = Ears()
        self.reaper = Reaper(self._ears, world.settings.reaper.drain_limit, world.clock.now())
        self._driver = Driver[ReaperEvent, ReaperAction](self.reaper, self._perform, world.clock)
        self._keeper = Keeper(self._store, self.reaper)
        own = world.settings.reaper.directory
        directory = Path(own) if own else world.settings.bus.directory
        self._record = RecordFile(directory, self.reaper.recorder.recorded, is_own=bool(own))
        reporters = self.reaper.usage.reporters
        self._reports = world.metrics.counter("reports", "Reports taken from replicas.")
        self._drained = world.metrics.counter("drains", "Drains, by their end.", ["end"])
        for end in ("stopped", "cancelled", "refused"):
            self._drained.labels(end)  # a rate needs the 0 before the first one
        world.metrics.gauge("replicas", "dns replicas known.", lambda: float(len(reporters.known)))
        self._usage_metrics = UsageMetrics(world, self.reaper)

    async def start(self) -> None:
        """Learn what earlier reapers knew, then serve."""
        registered = await fetch_leaves(self._world, self._store, REPLICA_ROOT)
        statistics = await fetch_leaves(self._world, self._store, STATS_ROOT)
        self.reaper.remember(registered, statistics, self._world.clock.now())
        self._record.load()
        _, self._ears.store = await follow_vms(
            self._world,
            self._store,
            lambda changes: self._driver.handle(VmsConfigured(changes)),
            lambda: self._driver.handle(StoreReturned()),
            check=check_durations,
        )
        self.reaper.recorder.recorded.keep_only(self.reaper.policy.vms.configured)
        self._ears.vmds = follow_states(
            self._world,
            self._vmds,
            lambda statuses, host: self._driver.handle(StatesListed(statuses, host, self._world.clock.wall())),
            lambda status, gone: self._driver.handle(StateChanged(status, gone, self._world.clock.wall())),
        )
        self._world.serve({Report: self.report, Why: self.why, ForgetClients: self.forget_clients})
        self._driver.tick()

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        return self.reaper.notes(self._world.clock.now()) + self._usage_metrics.notes()

    def reload(self, settings: Settings) -> None:
        """Adopt other limits, for drains that begin from now on."""
        self.reaper.policy.drain_limit_s = settings.reaper.drain_limit
        self._usage_metrics.limit = settings.reaper.vm_metrics

    async def stop(self) -> None:
        """Save what is not saved, as far as there is time."""
        self._record.save_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_TIMEOUT_S):
                while self.reaper.usage.statistics.unsaved:
                    await self._keeper.save_totals()

    async def report(self, report: Report) -> Done:
        """Reply to Report; who is not known yet is registered in the store first."""
        registration = self.reaper.registration(report)
        if registration is not None:
            await self._keeper.register(registration)
        self._driver.handle(UsageReported(report, self._world.clock.wall()))
        self._reports.inc()
        return Done()

    def why(self, request: Why) -> WhyReport:
        """Reply to Why."""
        return self.reaper.recorder.why(request.vm, self._world.clock.now(), self._world.clock.wall())

    def forget_clients(self, request: ForgetClients) -> Done:
        """Reply to ForgetClients."""
        if request.vm:
            self.reaper.recorder.recorded.forget(request.vm)
        else:
            self.reaper.recorder.recorded.clear()
        try:
            self._record.erase()
        except OSError as error:
            raise Unavailable(f"the file of the record cannot be removed: {error}") from None
        self._world.spawn(self._record.rewrite())
        return Done()

    def _perform(self, actions: Sequence[ReaperAction]) -> None:
        for action in actions:
            match action:
                case AskDrain(vm):
                    self._world.spawn(self._drain(vm))
                case AskStop(vm, drain):
                    self._world.spawn(self._stop(vm, drain))
                case TakeBackDrain(vm, drain, _):
                    self._world.spawn(self._take_back(vm, drain))
                case WriteRecord(clients, whole):
                    if self._record.append(clients) or whole:
                        self._world.spawn(self._record.rewrite())
                case Save():
                    self._world.spawn(self._save())

    async def _drain(self, vm: str) -> None:
        try:
            begun = await self._vmd_of(vm).call(Drain(vm=vm), Draining, CALL_TIMEOUT_S)
        except JitsuError as error:
            log.info("not drained", vm=self.reaper.policy.vms.name_of(vm), reason=str(error))
            self._drained.labels("refused").inc()
            self._driver.handle(DrainEnded(vm, str(error) or "vmd refused it"))
        else:
            self._driver.handle(DrainBegun(vm, begun.drain))

    async def _stop(self, vm: str, drain: str) -> None:
        refusal = ""
        try:
            await self._vmd_of(vm).call(StopDrained(vm=vm, drain=drain), Done, CALL_TIMEOUT_S)
            log.info("idle, stopped", vm=self.reaper.policy.vms.name_of(vm))
            self._drained.labels("stopped").inc()
        except JitsuError as error:
            refusal = str(error) or "vmd refused it"
            log.info("not stopped", vm=self.reaper.policy.vms.name_of(vm), reason=refusal)
            self._drained.labels("refused").inc()
        self._driver.handle(DrainEnded(vm, refusal))

    async def _take_back(self, vm: str, drain: str) -> None:
        self._drained.labels("cancelled").inc()
        try:
            await self._vmd_of(vm).call(CancelDrain(vm=vm, drain=drain), Done, CALL_TIMEOUT_S)
        except JitsuError as error:
            log.info("vmd takes the drain back by itself", vm=self.reaper.policy.vms.name_of(vm), reason=str(error))

    def _vmd_of(self, vm: str) -> Caller:
        """Return the vmd of the host on which a VM is; raises Unavailable if no host has it any more."""
        host = self.reaper.policy.vms.host_of(vm)
        if host not in self._vmds:
            raise Unavailable(f"no host has {self.reaper.policy.vms.name_of(vm)} any more")
        return self._vmds[host]

    async def _save(self) -> None:
        await self._keeper.save()
        self._driver.handle(SaveEnded())
