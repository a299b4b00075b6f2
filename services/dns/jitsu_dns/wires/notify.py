"""The sockets over which secondaries are notified of changes (NOTIFY, RFC 1996)."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_dns.wires.sockets import Handler, Server


class NotifySockets:
    """One socket per address family, bound to the server's own address: secondaries listen to that one only."""

    def __init__(self, handler: Handler, bind: str) -> None:
        self._handler = handler
        self._bind = ip_address(bind)
        self._transports: dict[int, asyncio.DatagramTransport] = {}

    async def open(self, servers: Sequence[Server]) -> None:
        """Bind the sockets that are needed for these servers."""
        for version in sorted({ip_address(address).version for address, _ in servers}):
            any_address = "0.0.0.0" if version == 4 else "::"
            own = str(self._bind) if self._bind.version == version else any_address
            loop = asyncio.get_running_loop()
            self._transports[version], _ = await loop.create_datagram_endpoint(
                lambda: _Answers(self._handler), local_addr=(own, 0)
            )

    def send(self, server: Server, data: bytes) -> None:
        """Send a datagram."""
        self._transports[ip_address(server[0]).version].sendto(data, server)


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._handler.notify_answered((addr[0], addr[1]), data)
