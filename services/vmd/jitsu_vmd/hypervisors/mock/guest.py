"""The web server of a mock guest. A guest on loopback has its own 127.x.y.z address, and serves once it has booted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
from http import HTTPStatus

from jitsu_runtime.clock import SYSTEM_CLOCK

MAX_REQUEST_BYTES = 16 * 1024
REQUEST_LIMIT_S = 10.0
MAX_CONNECTIONS = 2048
BACKLOG = 2048


class HttpGuest:
    """A web server whose page says which VM it is, and for how long it has been up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._powered_on = SYSTEM_CLOCK.now()
        self._boot_s = 0.0

    async def listen(self, addresses: list[str] | None, port: int) -> None:
        """Finish the boot: answer from now on, on all addresses if None; raises OSError if one cannot be bound."""
        self._server = await asyncio.start_server(
            self._connected, addresses, port, limit=MAX_REQUEST_BYTES, reuse_address=True, backlog=BACKLOG
        )
        self._boot_s = SYSTEM_CLOCK.now() - self._powered_on

    def power_off(self) -> None:
        """Vanish, with all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(REQUEST_LIMIT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self.answer(head))
                    await writer.drain()
        finally:
            self._open.discard(writer)
            writer.close()

    def answer(self, head: bytes) -> bytes:
        """Return the response to a request."""
        method = head.split(b" ", 1)[0]
        status = HTTPStatus.OK if method in (b"GET", b"HEAD") else HTTPStatus.NOT_IMPLEMENTED
        body = self._page().encode() if status is HTTPStatus.OK else b""
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/html; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else body)

    def _page(self) -> str:
        name = html.escape(self.name)
        up = SYSTEM_CLOCK.now() - self._powered_on
        return (
            f"<!doctype html>\n<title>{name}</title>\n"
            f"<p>This is the VM <b>{name}</b>. It booted in {1000 * self._boot_s:.0f} ms"
            f" and has been up for {up:.1f} s.</p>\n"
        )


class LoopbackGuest(HttpGuest):
    """A guest of the loopback kind."""

    def __init__(self, name: str, addresses: list[str], port: int, boot_time: float) -> None:
        super().__init__(name)
        self._addresses, self._port, self._boot_time = addresses, port, boot_time

    async def prepare(self) -> None:
        """Begin to boot."""

    async def boot(self) -> None:
        """Return when it has booted; raises OSError if it cannot."""
        if self._boot_time:
            await asyncio.sleep(self._boot_time)
        try:
            await self.listen(self._addresses, self._port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            shown = ", ".join(self._addresses)
            text = f"not all of {shown} are addresses of this host; use an address such as 127.0.2.1"
            raise OSError(error.errno, text) from None
