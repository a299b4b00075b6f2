"""The sockets over which other servers are asked: one for each attempt, so that the kernel picks its port at random."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from jitsu_dns.rules import forward as rules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from jitsu_dns.wires.sockets import Handler, Server

MAX_RESPONSE_BYTES = 65535


class ForwardSockets:
    """Sends questions to other servers, and hands what comes back to the handler."""

    def __init__(self, handler: Handler, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """`spawn` runs a task of the process."""
        self._handler, self._spawn = handler, spawn
        self._sockets: dict[int, socket.socket] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def ask(self, attempt: int, server: Server, data: bytes, *, tcp: bool) -> None:
        """Send a packet to a server."""
        if tcp:
            self._tasks[attempt] = self._spawn(self._over_tcp(attempt, server, data))
            return
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        try:
            asking = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._fail_soon(attempt, error)
            return
        self._sockets[attempt] = asking
        try:
            asking.connect(server)
            asking.send(data)
        except OSError as error:
            self._fail_soon(attempt, error)
            return
        asyncio.get_running_loop().add_reader(asking, self._readable, attempt, asking)

    def _fail_soon(self, attempt: int, error: OSError) -> None:
        """Report a failure from the event loop: whoever asked is still performing its actions."""
        asyncio.get_running_loop().call_soon(self._handler.attempt_failed, attempt, str(error.strerror))

    def forget(self, attempt: int) -> None:
        """Close what an attempt has open."""
        asking = self._sockets.pop(attempt, None)
        if asking is not None:
            asyncio.get_running_loop().remove_reader(asking)
            asking.close()
        task = self._tasks.pop(attempt, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _readable(self, attempt: int, asking: socket.socket) -> None:
        try:
            data = asking.recv(MAX_RESPONSE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._handler.attempt_failed(attempt, str(error.strerror))
        else:
            self._handler.response_received(attempt, data, tcp=False)

    async def _over_tcp(self, attempt: int, server: Server, data: bytes) -> None:
        try:
            async with asyncio.timeout(rules.TOTAL_S):
                reader, writer = await asyncio.open_connection(*server)
                try:
                    writer.write(len(data).to_bytes(2, "big") + data)
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    response = await reader.readexactly(length)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            self._handler.attempt_failed(attempt, f"TCP: {str(error) or type(error).__name__}")
        else:
            self._handler.response_received(attempt, response, tcp=True)
