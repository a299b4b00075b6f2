"""Runs the repacker (repacker.py) beside the store while there is something to do.

commits come           after 32 of them a `busy` pass; the repacker waits a moment for the next pass, then ends
no commit for 10 s     a `quiet` pass if there are 8 packfiles or more, or 1,000 changes that the snapshot does not
                       have; then the repacker ends
no commit for 100 s    a `quiet` pass for fewer
the repacker dies      another one is started after 5 s
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_store.git.files import pack_directory
from jitsu_store.rules.repack_plan import FAN_IN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET_S = 10.0
"""After this long without a commit, what is left over is combined."""
FEW_PACKS = 8
FEW_CHANGES = 1000
FEW_QUIET_S = 100.0
"""The same if little is left over: one commit a minute is not worth starting a process each time."""
NEXT_PASS_S = 2.0
"""A repacker without work ends after this long, and gives its memory back."""
RESTART_S = 5.0

log = structlog.get_logger("store")


class RepackerChild:
    """The repacker as a child that comes and goes: see `Repacker` in storage.py."""

    def __init__(self, path: Path, repacked: Callable[[], None]) -> None:
        """`repacked` is called when packfiles have been combined."""
        self._path = path
        self._repacked = repacked
        self._commits = 0
        """How many since the last pass."""
        self._left_over = sum(1 for _ in pack_directory(path).glob("pack-*.idx"))
        """Packfiles since the last quiet pass, those of an earlier start included."""
        self._changes = 0
        """Changes since then, which are not in the snapshot."""
        self._wanted = asyncio.Event()
        self._trouble = ""
        """Why the repacker could not be started."""

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        return [self._trouble] if self._trouble else []

    def started(self, missing: int) -> None:
        """Note how many leaves the store did not find in the snapshot."""
        self._changes += missing
        self._wanted.set()

    def committed(self, changes: int) -> None:
        """Note that there is one more packfile, with so many changes."""
        self._commits += 1
        self._left_over += 1
        self._changes += changes
        self._wanted.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            quiet = await self._due()
            try:
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "jitsu_store.wires.repacker",
                    str(self._path),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            except OSError as error:  # no process or descriptor is left: repacking can wait
                if not self._trouble:
                    log.warning("the packer cannot be started", reason=error.strerror)
                self._trouble = f"cannot combine the packs: no process can be started ({error.strerror})"
                await asyncio.sleep(RESTART_S)
                continue
            self._trouble = ""
            assert child.stdin is not None
            try:
                is_alive = await self._attend(child, quiet=quiet)
            finally:
                child.stdin.close()
            status = await child.wait()
            if not is_alive:
                log.warning("the packer ended", status=status)
                await asyncio.sleep(RESTART_S)

    async def _due(self) -> bool:
        """Wait until there is something to do, and return whether that is a quiet pass."""
        while True:
            self._wanted.clear()
            if self._commits >= FAN_IN:
                return False
            if self._left_over < 2 and not self._changes:
                await self._wanted.wait()
                continue
            is_little = self._left_over < FEW_PACKS and self._changes < FEW_CHANGES
            try:
                async with asyncio.timeout(FEW_QUIET_S if is_little else QUIET_S):
                    await self._wanted.wait()
            except TimeoutError:
                return True

    async def _attend(self, child: asyncio.subprocess.Process, *, quiet: bool) -> bool:
        """Give it one pass after the other. Returns false if it has died, true if there is nothing left to do."""
        assert child.stdin is not None
        assert child.stdout is not None
        while True:
            self._commits = 0
            if quiet:
                self._left_over, self._changes = 1, 0
            with suppress(RuntimeError, ConnectionError):  # what uvloop and asyncio raise when it has ended
                child.stdin.write(b"quiet\n" if quiet else b"busy\n")
            answer = (await child.stdout.readline()).decode().strip()
            if not answer:
                return False
            if answer != "done":
                log.warning(answer)
            self._repacked()
            if quiet:
                return True
            try:
                async with asyncio.timeout(NEXT_PASS_S):
                    quiet = await self._due()
            except TimeoutError:
                return True
