"""One section [command.NAME]: its commands, how many of them may run at once, and its `watch`.

A section whose commands hang delays no other: each has its own turns, and questions for states have turns of their own,
so that they never keep a start waiting.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import IO, TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.clock import sleep
from jitsu_runtime.settings.commands import commands_of
from jitsu_vmd.hypervisors.command.rules import arguments, reports
from jitsu_vmd.hypervisors.command.rules.watching import WatchBackoff
from jitsu_vmd.hypervisors.command.wires import processes
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.commands import CommandSettings
    from jitsu_vmd.hypervisors.command.rules.reports import Ended, StateReport

MAX_COMMANDS, MAX_QUESTIONS = 32, 4
"""Of one section, at once."""
MAX_LINE_BYTES = 4096
"""Of `watch`; a longer line is not one that it should print."""
MAX_READ_BYTES = 65_536
IN_A_ROW = 50
"""This many lines of `watch` are taken in before others have their turn."""

log = structlog.get_logger("vmd")


class CommandSection:
    """The commands of one section."""

    def __init__(self, name: str, settings: CommandSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self.commands = commands_of(settings)
        self._clock = clock
        self._turns = asyncio.Semaphore(MAX_COMMANDS)
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._listing: asyncio.Task[dict[str, StateReport]] | None = None
        self._listed_at = 0.0

    @property
    def path(self) -> str | None:
        """Where programs are looked for; None: in the usual places."""
        return self._environment("", None).get("PATH")

    def says(self, action: str, why: str) -> str:
        """Return a reason as an operator reads it."""
        return f"[command.{self.name}] {action}: {why}"

    # --- commands that change a VM ---

    async def change(self, action: str, vm: VM, began: Callable[[int], None]) -> None:
        """Run a command of a VM; raises Unavailable with the reason if it fails."""
        async with self._turns:
            ended = await self._run(action, vm, self.settings.limit, began)
        if ended.has_failed:
            raise Unavailable(self.says(action, reports.ending(ended)))

    async def _run(self, action: str, vm: VM | None, limit: float, began: Callable[[int], None] | None) -> Ended:
        settings = self.settings
        argv = arguments.argv(self.commands[action], vm, shell=settings.shell)
        try:
            return await processes.run(argv, self._environment(action, vm), limit, self._clock, began)
        except OSError as error:
            raise Unavailable(self.says(action, f"{argv[0]} cannot be run: {error.strerror}")) from None

    def _environment(self, action: str, vm: VM | None) -> dict[str, str]:
        return arguments.environment(os.environ, self.name, self.settings.environment, action, vm)

    # --- states ---

    async def state(self, vm: VM) -> tuple[StateReport, float]:
        """Ask for the state of a VM; returns it, and when it was asked for. Raises Unavailable."""
        if "state" not in self.commands:
            states, asked_at = await self.states()
            return states.get(vm.uuid) or states.get(vm.name) or reports.StateReport(GuestState.OFF), asked_at
        async with self._questions:
            asked_at = self._clock.now()
            ended = await self._run("state", vm, self.settings.limit, None)
        try:
            return reports.state(ended, self.settings.words), asked_at
        except reports.NotUnderstood as why:
            raise Unavailable(self.says("state", str(why))) from None

    async def states(self) -> tuple[dict[str, StateReport], float]:
        """Ask for the states of all VMs; those who ask in the meantime are given the same answer."""
        if self._listing is None or self._listing.done():
            self._listed_at = self._clock.now()
            self._listing = asyncio.ensure_future(self._list())
        asked_at = self._listed_at
        return await asyncio.shield(self._listing), asked_at

    async def _list(self) -> dict[str, StateReport]:
        async with self._questions:
            ended = await self._run("states", None, self.settings.limit, None)
        try:
            return reports.states(ended, self.settings.words)
        except reports.NotUnderstood as why:
            raise Unavailable(self.says("states", str(why))) from None

    # --- watch ---

    async def watch(self, found: Callable[[str, StateReport | None], None]) -> None:
        """Run `watch` until this is cancelled, and start it again when it ends.

        `found` is given the name or UUID of a VM, "" for all, and its state if that was printed.
        """
        backoff = WatchBackoff()
        while True:
            began = self._clock.now()
            why = await self._watch_once(found)
            wait = backoff.ended(self._clock.now() - began)
            log.warning("a watch command has ended and is started again", section=self.name, reason=why, in_s=wait)
            await sleep(self._clock, wait)
            found("", None)  # something may have changed in the meantime

    async def _watch_once(self, found: Callable[[str, StateReport | None], None]) -> str:
        """Run `watch` until it ends; returns why it has."""
        argv = arguments.argv(self.commands["watch"], None, shell=self.settings.shell)
        try:
            process = _watching(argv, self._environment("watch", None))
        except OSError as error:
            return f"{argv[0]} cannot be run: {error.strerror}"
        assert process.stdout is not None
        ending = asyncio.ensure_future(self._end_with(process.pid))
        last, lines = "", 0
        try:
            async for line in _lines(process.stdout):
                last, lines = line, lines + 1
                found(*reports.watched(line, self.settings.words))
                if lines % IN_A_ROW == 0:
                    await asyncio.sleep(0)
        finally:
            ending.cancel()
            status = process.poll()
            processes.leave(process)
            process.stdout.close()
        return reports.tail(last) or f"exit status {status}"

    async def _end_with(self, pid: int) -> None:
        """End what `watch` has left behind when it ends, so that its output ends too."""
        while not await processes.has_ended(pid, self.settings.interval, self._clock):
            pass
        processes.kill(pid)


def _watching(argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd="/",
        start_new_session=True,
        bufsize=0,
    )


async def _lines(pipe: IO[bytes]) -> AsyncIterator[str]:
    """Yield the lines that come from a pipe; one that is too long is cut."""
    loop, readable, rest = asyncio.get_running_loop(), asyncio.Event(), b""
    descriptor = pipe.fileno()
    os.set_blocking(descriptor, False)
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                read = os.read(descriptor, MAX_READ_BYTES)
            except BlockingIOError:
                continue
            if not read:
                break
            *whole, rest = (rest + read).split(b"\n")
            rest = rest[:MAX_LINE_BYTES]
            for line in whole:
                yield line[:MAX_LINE_BYTES].decode("utf-8", "replace")
    finally:
        loop.remove_reader(descriptor)
    if rest:
        yield rest.decode("utf-8", "replace")
