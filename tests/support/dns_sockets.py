"""The sockets of a dns replica, without the network: what a test asks is handed over, what is answered is noted.

sockets = FakeSockets()
await jitsu_dns.main.start(world, sockets)
sockets.query(data)          # answered at once, or later
sockets.answers              # (client, response) in the order in which they were sent
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence

    from jitsu_dns.wires.interfaces import OwnAddress
    from jitsu_dns.wires.sockets import Handler, Server

CLIENT = ("192.0.2.1", 5000)


class _OneSender:
    def __init__(self, address: bytes) -> None:
        self._address = address

    def keys(self) -> list[bytes]:
        return [self._address]

    def address(self, n: int) -> bytes:
        return self._address


class FakeSockets:
    """Sockets in memory (jitsu_dns.wires.sockets.Sockets)."""

    def __init__(self, address: str = "127.0.0.1", port: int = 53) -> None:
        self.address, self.port = address, port
        self.is_inherited = False
        self.max_forwards = 1000
        self.warnings: list[str] = []
        self.answers: list[tuple[Hashable, bytes]] = []
        self.asked: list[tuple[int, Server, bytes, bool]] = []
        """Questions to other servers: attempt, server, packet, over TCP."""
        self.forgotten: list[int] = []
        self.notified: list[tuple[Server, bytes]] = []
        self.own: list[OwnAddress] = []
        self.changed = asyncio.Event()
        """To be set when `own` has changed."""
        self.left = 0
        self.is_reading = False
        self._handler: Handler | None = None

    # --- what the test does ---

    def query(self, data: bytes, client: tuple[str, int] = CLIENT, *, udp: bool = True) -> None:
        """Ask, as one datagram or one TCP message; if nothing reads yet, the query is lost."""
        if self._handler is None or not self.is_reading:
            return
        address = ip_address(client[0]).packed
        answer = None
        if udp:
            (answer,) = self._handler.warm([data], _OneSender(address))
        if answer is None:
            answer = self._handler.received(data, client, address, udp=udp)
        if answer:
            self.answers.append((client, answer))
        self._handler.turn_ended()

    def close(self, client: Hashable) -> None:
        """Close a client's connection."""
        self._served().gone(client)

    def respond(self, attempt: int, data: bytes, *, tcp: bool = False) -> None:
        """Let another server answer."""
        self._served().response_received(attempt, data, tcp=tcp)

    def fail(self, attempt: int, reason: str) -> None:
        """Let another server be out of reach."""
        self._served().attempt_failed(attempt, reason)

    def acknowledge(self, server: Server, data: bytes) -> None:
        """Let a secondary answer a NOTIFY."""
        self._served().notify_answered(server, data)

    def _served(self) -> Handler:
        assert self._handler is not None
        return self._handler

    # --- what the replica does ---

    def serve(self, handler: Handler) -> None:
        self._handler, self.is_reading = handler, True

    def stop_reading(self) -> None:
        self.is_reading = False

    def unhandled(self) -> int:
        return self.left

    def connections(self) -> int:
        return 0

    def dropped_queries(self) -> int:
        return 0

    def unsent(self) -> dict[str, int]:
        return {}

    def time_batches(self, observe: Callable[[float], None]) -> None:
        """Nothing takes time here."""

    def send(self, client: Hashable, data: bytes) -> None:
        self.answers.append((client, data))

    def send_all(self, client: Hashable, messages: Iterator[bytes]) -> None:
        self.answers += [(client, message) for message in messages]

    def ask(self, attempt: int, server: Server, data: bytes, *, tcp: bool) -> None:
        self.asked.append((attempt, server, data, tcp))

    def forget(self, attempt: int) -> None:
        self.forgotten.append(attempt)

    async def open_notify(self, servers: Sequence[Server]) -> None:
        """Nothing has to be opened."""

    def notify(self, server: Server, data: bytes) -> None:
        self.notified.append((server, data))

    def interfaces(self) -> list[OwnAddress]:
        return self.own

    async def address_changes(self) -> AsyncIterator[None]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            yield
