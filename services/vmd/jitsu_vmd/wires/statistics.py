"""How often each VM was started, as the store keeps it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Done, Record
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import STATS_ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from jitsu_runtime.clock import Clock, Timer
    from jitsu_runtime.world import Caller
    from jitsu_vmd.rules.summon import VmMachine

RECORD_TIMEOUT_S = 30.0
GATHER_S = 0.05
"""Starts are recorded so much later, all of that time at once: while a guest boots, a client needs the processors."""
SETTLE_S = 0.3
"""The store is given so long when vmd stops."""

log = structlog.get_logger("vmd")


class Statistics:
    """The statistics of one vmd."""

    def __init__(self, store: Caller, spawn: Callable[[Coroutine[Any, Any, None]], object], clock: Clock) -> None:
        self._store = store
        self._spawn = spawn
        self._clock = clock
        self._starts: dict[str, int] = {}
        self._recorded: dict[str, str] = {}
        """What this process has recorded, or is about to, by path."""
        self._gathered: dict[str, str] = {}
        self._timer: Timer | None = None

    def restore(self, statistics: Mapping[str, str]) -> None:
        """Take the number of starts from the store's statistics (path -> value)."""
        for path, value in statistics.items():
            match path.removeprefix(STATS_ROOT + "/").split("/"):
                case [vm, "total_starts"] if value.isdecimal():
                    self._starts[vm] = int(value)

    def starts(self, vm: str) -> int:
        """Return how often a VM was started that this process learns of now."""
        return self._starts.get(vm, 0)

    def started(self, machine: VmMachine) -> None:
        """Record a start."""
        path = f"{STATS_ROOT}/{machine.vm.uuid}"
        values = {f"{path}/start_ts": f"{self._clock.wall():.6f}", f"{path}/total_starts": str(machine.summons.starts)}
        self._recorded |= values
        self._gathered |= values
        if self._timer is None:
            self._timer = self._clock.call_in(GATHER_S, self._gathered_enough)

    async def settle(self) -> None:
        """Record what is gathered, because vmd stops."""
        if self._timer is None:
            return
        self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._record_gathered()

    def _gathered_enough(self) -> None:
        self._spawn(self._record_gathered())

    async def _record_gathered(self) -> None:
        self._timer, values, self._gathered = None, self._gathered, {}
        await self._record(values)

    def removed(self, machine: VmMachine) -> None:
        """Note that a VM is no longer configured; if it is again, it counts on."""
        vm = machine.vm.uuid
        self._starts[vm] = machine.summons.starts
        for path in (f"{STATS_ROOT}/{vm}/start_ts", f"{STATS_ROOT}/{vm}/total_starts"):
            self._recorded.pop(path, None)

    def record_again(self) -> None:
        """Tell a store that may be a new one what its predecessor may have lost."""
        if self._recorded:
            self._spawn(self._record(self._recorded))

    async def _record(self, values: dict[str, str]) -> None:
        try:
            await self._store.call(Record(values=values, service="vmd"), Done, RECORD_TIMEOUT_S)
        except JitsuError as error:
            log.warning("cannot record statistics", reason=str(error))
