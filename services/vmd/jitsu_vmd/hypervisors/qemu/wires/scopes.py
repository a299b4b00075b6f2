"""A scope of systemd for each QEMU process, where systemd runs: what is done to vmd's unit does not concern QEMU.

A process is moved there after it was started, and before its guest runs: a service of systemd could not inherit the
taps and disks that vmd opens for it. The call goes to systemd's own socket, which root may use, without dbus-daemon.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import structlog

from jitsu_vmd.hypervisors.qemu.rules.scope import MAX_BYTES, refusal, reply_length, scope_name, start_scope

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
SOCKET = "/run/systemd/private"
LIMIT_S = 2.0

log = structlog.get_logger("vmd")


class Scopes:
    """The scopes of one connection."""

    def __init__(self, hypervisor: str, path: str = SOCKET, booted: Path = BOOTED) -> None:
        self._hypervisor = hypervisor
        self._path = path
        self._booted = booted

    async def place(self, vm: str, name: str, pid: int) -> None:
        """Have a process in a scope of its own. Without one it stays in vmd's unit, where it outlives vmd too."""
        if not self._booted.is_dir():
            return
        scope = scope_name(self._hypervisor, vm, pid)
        try:
            async with asyncio.timeout(LIMIT_S):
                why = await self._asked(start_scope(scope, pid, f"QEMU of {name}"))
        except (OSError, ValueError, TimeoutError) as error:
            why = str(error) or "systemd does not answer"
        if why:
            log.warning("a QEMU process has no scope of its own", vm=name, scope=scope, reason=why)

    async def _asked(self, message: bytes) -> str:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            made.setblocking(False)
            await loop.sock_connect(made, self._path)
            who = str(os.geteuid()).encode().hex().encode()
            await loop.sock_sendall(made, b"\0AUTH EXTERNAL " + who + b"\r\n")
            if not (said := await loop.sock_recv(made, 512)).startswith(b"OK "):
                raise ValueError(f"systemd does not let vmd in: {said[:100]!r}")
            await loop.sock_sendall(made, b"BEGIN\r\n" + message)
            got = b""
            while True:
                while not (length := reply_length(got)) or len(got) < length:
                    if not (part := await loop.sock_recv(made, MAX_BYTES)):
                        raise ValueError("systemd has ended the connection")
                    got += part
                if (why := refusal(got[:length])) is not None:
                    return why
                got = got[length:]
