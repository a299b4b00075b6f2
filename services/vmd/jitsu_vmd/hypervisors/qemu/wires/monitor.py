"""A connection to one QEMU process by QMP, with limits: one that hangs delays nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import SetupFault, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALL_LIMIT_S = 5.0
"""QEMU answers within milliseconds, unless it is stopped, or its disk hangs."""
CONNECT_LIMIT_S = 10.0
RETRY_S = 0.005


def check_library() -> None:
    """Import qemu.qmp; raises SetupFault."""
    try:
        import qemu.qmp  # noqa: F401
    except ImportError:
        raise SetupFault("qemu.qmp is not installed", hint='pip install "jitsu-vmd[qemu]"') from None


def connected(directory: Path, name: str) -> socket.socket:
    """Return a connection to a socket in a directory, however long its path is; raises OSError."""
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(1.0)
        made.connect(f"/proc/self/fd/{at}/{name}")
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    finally:
        os.close(at)
    return made


def peer(connection: socket.socket) -> int:
    """Return the id of the process at the other end: one that listens cannot pass another's socket off as its own."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


class QmpMonitor:
    """The connection to one process."""

    def __init__(self, name: str) -> None:
        from qemu import qmp

        self._library = qmp
        self._name = name
        self._client = qmp.QMPClient(name)
        self._listener = qmp.EventListener()
        self._client.register_listener(self._listener)
        self.is_connected = False

    async def connect(self, made: socket.socket) -> None:
        """Greet QEMU; raises Unavailable."""
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                await self._client.connect(made)
                self.is_connected = True
        except (self._library.QMPError, OSError, EOFError, TimeoutError) as error:
            made.close()
            raise Unavailable(f"QEMU of {self._name} does not answer: {str(error) or 'no greeting'}") from None

    async def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Execute a command and return its answer, which is empty if it is not an object; raises Unavailable."""
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                answer = await self._client.execute(command, arguments or None)
                return answer if isinstance(answer, dict) else {}
        except TimeoutError:
            raise Unavailable(f"QEMU of {self._name} does not answer within {CALL_LIMIT_S:g} s") from None
        except self._library.ExecuteError as error:
            raise Unavailable(f"{self._name}: QEMU refuses {command}: {error}") from None
        except (self._library.QMPError, OSError, EOFError) as error:
            self.is_connected = False
            why = str(error) or "its connection has ended"
            raise Unavailable(f"QEMU of {self._name} does not answer: {why}") from None

    async def follow(self, happened: Callable[[dict[str, Any]], None]) -> None:
        """Pass on each event, until cancelled."""
        async for event in self._listener:
            happened(dict(event))

    async def close(self) -> None:
        """End the connection; QEMU goes on."""
        self.is_connected = False
        with suppress(self._library.QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._client.disconnect()
