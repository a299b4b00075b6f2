"""vmd's side of the launcher (launcher.py): calls, and what it reports; it is started when there is none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_runtime.service_manager import lifeline
from jitsu_vmd.hypervisors.solo5.wires.names import SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_LINE_BYTES = 64 << 20
"""The list of ten thousand guests has 5 MB."""
START_LIMIT_S = 10.0
CALL_LIMIT_S = 10.0
LOOK_S = 0.02

log = structlog.get_logger("solo5")


class LauncherClient:
    """A connection to the launcher."""

    def __init__(self, directory: Path, *, is_others: bool) -> None:
        """`is_others`: somebody else starts it, as systemd does."""
        self._directory = directory
        self._is_others = is_others
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self.ended: Callable[[str], None] = lambda _: None
        """Called with the UUID of each guest that ends, and with "" when the connection was lost."""

    async def connect(self) -> None:
        """Connect, and start a launcher if there is none; raises SetupFault or Unavailable."""
        async with self._connecting:
            if self._writer is not None:
                return
            if await self._connected():
                return
            if self._is_others:
                raise Unavailable(
                    f"no launcher of tenders runs in {self._directory}", hint="systemctl start jitsu-solo5"
                )
            await self._ended_one()
            self._process = self._spawned()
            for _ in range(int(START_LIMIT_S / LOOK_S)):
                await asyncio.sleep(LOOK_S)
                if await self._connected():
                    return
                if self._process.poll() is not None:
                    break
        raise SetupFault("the launcher of tenders (jitsu-solo5) does not start", hint="see its log above")

    async def _connected(self) -> bool:
        path = str(self._directory / SOCKET)
        try:
            reader, self._writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
        except OSError:
            return False
        self._reading = asyncio.create_task(self._read(reader, self._writer))
        return True

    async def _ended_one(self) -> None:
        """Wait for the end of a launcher whose socket is closed already, so that it is not taken for the next."""
        for _ in range(int(START_LIMIT_S / LOOK_S)):
            if self._process is None or self._process.poll() is not None:
                return
            await asyncio.sleep(LOOK_S)
        raise Unavailable("the launcher of tenders does not answer", hint="see its log above")

    def _spawned(self) -> subprocess.Popen[bytes]:
        descriptor = lifeline()
        # A session of its own: what stops vmd, Ctrl-C too, must not stop the guests.
        return subprocess.Popen(
            [sys.executable, "-m", "jitsu_vmd.hypervisors.solo5.wires.launcher", "--directory", str(self._directory)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=() if descriptor is None else (descriptor,),
            env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
        )

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                message = json.loads(line)
                if "ended" in message:
                    self.ended(str(message["ended"]))
                elif (answer := self._answers.pop(message.get("id"), None)) is not None and not answer.done():
                    answer.set_result(message)
        self._writer = None
        writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable("the launcher of tenders has ended"))
        self._answers.clear()
        self.ended("")

    async def call(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Make a call and return the answer, whose `error` is "" if it was carried out; raises Unavailable."""
        await self.connect()
        if self._writer is None:
            raise Unavailable("the launcher of tenders has ended")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(json.dumps({"id": number, "call": call, **arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                return await answer
        except TimeoutError:
            raise Unavailable("the launcher of tenders does not answer") from None
        finally:
            self._answers.pop(number, None)

    def wait(self) -> None:
        """Wait until the launcher that was started here has ended, if one was."""
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """Close the connection; the launcher goes on."""
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
