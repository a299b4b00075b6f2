"""One VM that commands drive: its machine (rules/guest.py), and the calls that change it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import sleep
from jitsu_runtime.driver import Driver
from jitsu_vmd.hypervisor import Guest, Nic
from jitsu_vmd.hypervisors.command.rules.guest import (
    SHOWN,
    AskState,
    CommandBegan,
    CommandReturned,
    CommandVm,
    CommandVmAction,
    CommandVmEvent,
    CommandVmState,
    ReportChange,
    StartSucceeded,
    StateFound,
    StateNotFound,
    StopSucceeded,
    WatchHinted,
)
from jitsu_vmd.hypervisors.command.rules.keys import NEEDS
from jitsu_vmd.hypervisors.command.wires import processes
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.isolation import isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.command.rules.reports import StateReport
    from jitsu_vmd.hypervisors.command.wires.records import CommandRecord, CommandRecords
    from jitsu_vmd.hypervisors.command.wires.section import CommandSection

CONFIRM_S, CONFIRM_AT_MOST_S = 0.05, 1.0
"""After a stop, the state is asked for after that long, and then each time twice as long after."""
STARTS = ("start", "resume")
_SAVED = (GuestState.PAUSED, GuestState.SUSPENDED)


class CommandGuest:
    """One VM with the section that drives it."""

    def __init__(
        self, vm: VM, section: CommandSection, records: CommandRecords, world: World, changed: Callable[[str], None]
    ) -> None:
        """`changed` is called with its uuid when vmd should look at it."""
        self.vm = vm
        """As it was last seen configured."""
        self.section = section
        self.seen = asyncio.Event()
        """Its state was asked for, whether or not it was found out."""
        self._records = records
        self._clock = world.clock
        self._spawn = world.spawn
        self._changed = changed
        settings = section.settings
        self._machine = CommandVm(settings.interval, settings.appears_within)
        self._driver = Driver[CommandVmEvent, CommandVmAction](self._machine, self._perform, world.clock)
        self._recall()
        self._driver.perform([])  # sets the timer of the first question

    def close(self) -> None:
        """Ask for its state no longer."""
        self._driver.close()

    def is_known(self) -> bool:
        """Say whether anything is believed of it."""
        return self._machine.state is not CommandVmState.UNKNOWN

    def view(self) -> Guest:
        """Return what is believed of it."""
        machine = self._machine
        nics = tuple(Nic(nic.mac, nic.bridge) for nic in domain_spec(self.vm, "").nics) if self.vm.bridge else ()
        if unseen := machine.unseen(self._clock.now()):
            return Guest(nics=nics, unseen=unseen)
        note = f"its state is not known now: {machine.trouble}" if machine.trouble else ""
        return Guest(SHOWN[machine.state], reason=machine.reason, note=note, nics=nics)

    # --- its state ---

    def watched(self, report: StateReport | None) -> None:
        """Take in what `watch` has printed about it; without a report its state is asked for soon."""
        if report is None:
            self._driver.handle(WatchHinted())
        else:
            self._driver.handle(StateFound(report, self._clock.now()))
            self.seen.set()

    def _perform(self, actions: Sequence[CommandVmAction]) -> None:
        for action in actions:
            match action:
                case AskState():
                    self._spawn(self._ask())
                case ReportChange():
                    self._changed(self.vm.uuid)

    async def _ask(self) -> None:
        """Ask for its state, as its machine wants."""
        try:
            with isolated():
                await self.find()
        except JitsuError as error:
            self._driver.handle(StateNotFound(str(error)))
        self.seen.set()

    async def find(self) -> GuestState:
        """Ask for its state and take it in; raises Unavailable."""
        report, asked_at = await self.section.state(self.vm)
        self._driver.handle(StateFound(report, asked_at))
        return report.state

    # --- after a restart ---

    def _recall(self) -> None:
        """Take in what the vmd before this one has started and not seen to run yet."""
        record = self._records.read(self.vm.uuid)
        if record is None:
            return
        age = self._clock.now() - record.at  # below 0 it is from before this machine was booted
        if record.runs():
            if record.action in STARTS:  # if it fails in the end, its state stays off
                self._driver.handle(StartSucceeded(self._clock.now()))
                self.seen.set()
            self._driver.handle(CommandBegan())
            self._spawn(self._outlives(record))
        elif record.pid == 0 and record.action in STARTS and 0 <= age < self._machine.appears_within:
            self._driver.handle(StartSucceeded(record.at))
            self.seen.set()

    async def _outlives(self, record: CommandRecord) -> None:
        """Wait for a command of the vmd before this one, and end it when its time is over."""
        left = record.at + self.section.settings.limit - self._clock.now()
        if not await processes.has_ended(record.pid, left, self._clock) and record.runs():
            await processes.end(record.pid, self._clock)
        self._records.remove(self.vm.uuid)
        self._driver.handle(CommandReturned())

    # --- commands that change it ---

    async def start(self) -> None:
        """Let it run: by `resume` if it was saved and there is such a command, else by `start`."""
        self._refuse_two()
        if self._machine.state is CommandVmState.APPEARING:
            return
        state = SHOWN.get(self._machine.state)
        if state is None or state is GuestState.RUNNING:
            state = await self.find()  # what is believed may be old, and nothing is started twice
        if state is GuestState.RUNNING:
            return
        action = "resume" if state in _SAVED and "resume" in self.section.commands else "start"
        try:
            await self._change(action)
        except Unavailable as error:
            raise BootFailed(error.message) from None
        now = self._clock.now()
        self._records.succeeded(self.vm.uuid, action, now)
        self._driver.handle(StartSucceeded(now))

    async def stop(self, how: StopMode) -> None:
        """Stop it, and return when its state is what it should be then."""
        self._refuse_two()
        state, within = await self.find(), self.section.settings.stops_within
        if how in (StopMode.PAUSE, StopMode.SUSPEND):
            target = GuestState.PAUSED if how is StopMode.PAUSE else GuestState.SUSPENDED
            await self._bring(NEEDS[how], target, within)
            return
        if state is GuestState.PAUSED:
            raise Unavailable(f"{self.vm.name} is paused: it is not destroyed, because its memory would be lost")
        if state is not GuestState.RUNNING and self._machine.state is not CommandVmState.APPEARING:
            return
        if how is StopMode.SHUTDOWN and await self._shut_down():
            return
        await self._bring("stop", GuestState.OFF, within)

    def _refuse_two(self) -> None:
        if self._machine.in_command:
            raise Unavailable(f"{self.vm.name}: an earlier command is still under way")

    async def _shut_down(self) -> bool:
        """Ask it to shut down; says whether it has within its shutdown_limit."""
        try:
            await self._bring("shutdown", GuestState.OFF, self.vm.value("shutdown_limit"))
        except Unavailable:
            return False
        return True

    async def discard(self) -> None:
        """Delete what was saved of it, by `discard` if there is such a command, else by `stop`."""
        state = await self.find()
        if state is GuestState.RUNNING:
            raise Refused(f"{self.vm.name} runs: its saved state is not discarded", hint="stop it first")
        if state in _SAVED:
            action = "discard" if "discard" in self.section.commands else "stop"
            await self._bring(action, GuestState.OFF, self.section.settings.stops_within)

    async def forget(self) -> None:
        """Forget what was written down about it; raises Unavailable if something was saved of it."""
        state = await self.find()
        if state in _SAVED:
            raise Unavailable(f"its saved state is kept: it is {state}")
        self._records.remove(self.vm.uuid)

    async def _change(self, action: str) -> None:
        """Run a command that changes it; raises Unavailable."""
        uuid = self.vm.uuid
        self._driver.handle(CommandBegan())
        try:
            await self.section.change(
                action, self.vm, lambda pid: self._records.began(uuid, pid, action, self._clock.now())
            )
        except JitsuError:
            self._records.remove(uuid)
            self._driver.handle(CommandReturned())
            raise

    async def _bring(self, action: str, target: GuestState, limit: float) -> None:
        """Run a command, and wait until the state is what it should lead to; raises Unavailable."""
        if action not in self.section.commands:
            raise Unavailable(self.section.says(action, "there is no such command"))
        await self._change(action)
        self._records.remove(self.vm.uuid)
        self._driver.handle(StopSucceeded())
        ends, wait = self._clock.now() + limit, CONFIRM_S
        while True:
            try:
                state: GuestState | None = await self.find()
                why = f"it has ended, but the state is still {state} after {limit:g} s"
            except Unavailable as error:
                state, why = None, error.message
            if state is target or (target is GuestState.OFF and state is GuestState.CRASHED):
                return
            if self._clock.now() + wait > ends:
                raise Unavailable(self.section.says(action, why))
            await sleep(self._clock, wait)
            wait = min(2 * wait, CONFIRM_AT_MOST_S)
