"""One connection to a hypervisor: it is opened, its events are followed, and its guests are looked at.

rules/connection.py decides when it is opened again. Whatever the code for its kind raises ends neither vmd nor another
connection (isolation.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import JitsuError, SetupFault
from jitsu_runtime.driver import Driver
from jitsu_vmd.rules.connection import (
    NOT_YET,
    Broke,
    ConnectionAction,
    ConnectionEvent,
    ConnectionMachine,
    FollowEvents,
    OpenConnection,
    WasAway,
    WasOpened,
)
from jitsu_vmd.wires.isolation import Broken, OddVms, isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisor import Guest, Hypervisor

log = structlog.get_logger("vmd")


class Connection:
    """One connection of vmd."""

    def __init__(self, backend: Hypervisor, spawn: Callable[[Coroutine[Any, Any, None]], object], clock: Clock) -> None:
        self.backend = backend
        self.odd = OddVms()
        self.machine = ConnectionMachine()
        self._silence = NOT_YET
        """Why it has not answered when it was looked at the last time, "" if it has."""
        self._spawn = spawn
        self._driver = Driver[ConnectionEvent, ConnectionAction](self.machine, self._perform, clock)
        self._changed: Callable[[str], None] = lambda _: None
        self._wanted = asyncio.Event()
        self._first: asyncio.Future[None] | None = None

    @property
    def trouble(self) -> str:
        """Why it does not answer, "" if it does."""
        return f"it is opened again after a fault: {fault}" if (fault := self.machine.fault) else self._silence

    def open(self) -> asyncio.Future[None]:
        """Begin to open it; the future is done when it is open for the first time, and raises SetupFault."""
        self._first = asyncio.get_running_loop().create_future()
        self._perform([OpenConnection()])
        return self._first

    def follow(self, changed: Callable[[str], None]) -> None:
        """From now on, report what changes."""
        self._changed = changed
        self._wanted.set()

    async def guests(self, vms: list[VM]) -> tuple[dict[str, Guest], set[str]]:
        """Return the guests of these VMs, and the uuids of those of which something is known."""
        if self.machine.fault:
            return {}, set()
        try:
            answer = await self.odd.guests(self.backend, vms)
        except JitsuError as error:
            if self._silence != str(error):
                log.error("the hypervisor does not answer", hypervisor=self.backend.name, reason=str(error))
            self._silence = str(error)
            return {}, set()
        self._silence = ""
        return answer

    # --- what the machine wants done ---

    def _perform(self, actions: Sequence[ConnectionAction]) -> None:
        for action in actions:
            match action:
                case OpenConnection():
                    self._spawn(self._open())
                case FollowEvents(has_missed):
                    self._spawn(self._follow(has_missed=has_missed))

    async def _open(self) -> None:
        is_first = self._first is not None and not self._first.done()
        try:
            with isolated():
                await self.backend.open()
        except SetupFault as fault:
            if self._first is not None and is_first:
                self._first.set_exception(fault)
                return
            self._ended(Broken(str(fault)))  # it could be set up before
        except JitsuError as error:
            self._ended(error)
        else:
            if self._first is not None and is_first:
                self._first.set_result(None)
            self._driver.handle(WasOpened())

    async def _follow(self, *, has_missed: bool) -> None:
        await self._wanted.wait()
        if has_missed:
            log.info("the connection is open again", hypervisor=self.backend.name)
            self._changed("")
        try:
            with isolated():
                await self.backend.run(self._changed)
        except JitsuError as error:
            self._ended(error)
        else:
            self._ended(Broken("it no longer reports what happens"))

    def _ended(self, error: JitsuError) -> None:
        reason, known, name = str(error), self.machine.away, self.backend.name
        if isinstance(error, Broken):
            self._driver.handle(Broke(reason))
            log.error("a connection is broken", hypervisor=name, reason=reason, faults=self.machine.faults)
            return
        self._driver.handle(WasAway(reason))
        if known in ("", NOT_YET):
            log.warning("waiting for the hypervisor", hypervisor=name, reason=reason)
