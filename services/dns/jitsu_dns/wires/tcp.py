"""DNS over TCP (RFC 7766): pipelined queries, answers in any order, and limits on what a client may hold."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, cast

from jitsu_dns.rules.access import plain
from jitsu_dns.wires.udp import cannot_bind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

MAX_UNREAD_BYTES = 64 * 1024
"""A client that does not read its answers is dropped beyond this."""
MAX_ALL = 4
"""Answers of many messages that one client may have asked for at once."""
BACKLOG = 512


def bind_tcp(address: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket; raises SetupFault."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise cannot_bind("TCP", address, port, error) from None
    return bound


class TcpServer:
    """All connections."""

    def __init__(
        self,
        received: Callable[[bytes, Connection], bytes | None],
        gone: Callable[[Hashable], None],
        after: Callable[[], None],
        *,
        max_connections: int,
        idle_s: float,
    ) -> None:
        """`received` returns an answer that is ready, or None; `gone` hears of closed connections."""
        self.received, self.gone, self.after = received, gone, after
        self.max_connections, self.idle_s = max_connections, idle_s
        self.connections: dict[Connection, None] = {}
        """Those that have asked something latest come last."""

    async def open(self, bound: socket.socket) -> asyncio.Server:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), sock=bound, backlog=BACKLOG)

    async def run(self, server: asyncio.Server) -> None:
        """Serve until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for connection in list(self.connections):
                connection.abort()


class Connection(asyncio.Protocol):
    """One connection; the client that the rules see."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sending: deque[Iterator[bytes]] = deque()
        """Answers of many messages; the first is under way."""
        self._is_full = False
        self.address = b""
        """The client's, 4 or 16 bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; when there are too many, that one goes that has asked nothing for longest."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        if len(self._server.connections) >= self._server.max_connections:
            next(iter(self._server.connections)).abort()
        host = self._transport.get_extra_info("peername")[0].partition("%")[0]
        self.address = plain(socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host))
        self._server.connections[self] = None
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all that waits for this client."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._sending.clear()
        self._server.connections.pop(self, None)
        self._server.gone(self)

    def data_received(self, data: bytes) -> None:
        """Take what has come; only whole messages restart the idle timer."""
        self._buffer += data
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + length:
                break
            message = bytes(self._buffer[2 : 2 + length])
            del self._buffer[: 2 + length]
            if self._server.connections.pop(self, self) is None:
                self._server.connections[self] = None
            self._restart_timer()
            answer = self._server.received(message, self)
            if answer:
                self.send(answer)
            if self._transport is None:
                return
        self._server.after()

    def send(self, data: bytes) -> None:
        """Send one message, if the client is still there and reads."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.abort()
            return
        self._transport.write(len(data).to_bytes(2, "big") + data)

    def send_all(self, messages: Iterator[bytes]) -> None:
        """Send messages, each made when the client has taken those before it; between them others are served."""
        if self._transport is None or len(self._sending) >= MAX_ALL:
            self.abort()
            return
        self._sending.append(messages)
        if len(self._sending) == 1:
            self._send_next()

    def pause_writing(self) -> None:
        """Note that the client reads too slowly for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that the client has read: it is not idle."""
        self._is_full = False
        if self._sending:
            self._restart_timer()
            self._send_next()

    def _send_next(self) -> None:
        if self._transport is None or self._is_full or not self._sending:
            return
        message = next(self._sending[0], None)
        if message is None:
            self._sending.popleft()
        else:
            self.send(message)
        asyncio.get_running_loop().call_soon(self._send_next)

    def abort(self) -> None:
        """Close at once."""
        self._server.connections.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def _restart_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._server.idle_s, self.abort)
