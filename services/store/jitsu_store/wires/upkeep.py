"""Keeps the packer (packer.py) running beside the store, and tells it when there may be something to do."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_store.rules.packing import FAN_IN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET_S = 10.0
"""After that long without a commit what is left over is brought together."""
RESTART_S = 5.0

log = structlog.get_logger("store")


class Upkeep:
    """The packer as a child."""

    def __init__(self, path: Path, packed: Callable[[], None]) -> None:
        """`packed` is called when packs have been brought together."""
        self._path = path
        self._packed = packed
        self._commits = 0
        """Since the packer was told last."""
        self._settled = True
        """Nothing is left over since it was quiet last."""
        self._wanted = asyncio.Event()

    def committed(self) -> None:
        """Note that there is one more pack."""
        self._commits += 1
        self._settled = False
        self._wanted.set()

    async def run(self) -> None:
        """Work until cancelled; a packer that dies is replaced."""
        while True:
            await self._wanted.wait()  # a store that nobody writes to needs no packer
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "jitsu_store.wires.packer",
                str(self._path),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                await self._attend(child)
            finally:
                if child.stdin is not None:
                    child.stdin.close()
            log.warning("the packer ended", status=await child.wait())
            await asyncio.sleep(RESTART_S)

    async def _attend(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        while True:
            self._wanted.clear()
            quiet = False
            if self._commits < FAN_IN:
                try:
                    async with asyncio.timeout(QUIET_S):
                        await self._wanted.wait()
                    continue
                except TimeoutError:
                    quiet = True
            if quiet and self._settled:
                await self._wanted.wait()
                continue
            self._commits, self._settled = 0, quiet
            with suppress(RuntimeError, ConnectionError):  # uvloop's and asyncio's word for: it has ended
                child.stdin.write(b"quiet\n" if quiet else b"busy\n")
            answer = (await child.stdout.readline()).decode().strip()
            if not answer:
                return
            if answer != "done":
                log.warning(answer)
            self._packed()
