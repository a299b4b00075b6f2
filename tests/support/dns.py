"""A DNS client for tests: many questions at once, each answer with the time it took."""

from __future__ import annotations

import asyncio
import random
import struct
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, cast

import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKETS = 200


@dataclass
class Answer:
    """What came back, if anything did."""

    name: str
    message: dns.message.Message | None
    seconds: float

    @property
    def rcode(self) -> str:
        return "none" if self.message is None else dns.rcode.to_text(self.message.rcode())

    @property
    def addresses(self) -> list[str]:
        if self.message is None:
            return []
        return [rdata.to_text() for rrset in self.message.answer for rdata in rrset]

    @property
    def ttl(self) -> int:
        assert self.message is not None
        return int(self.message.answer[0].ttl)

    @property
    def extended_error(self) -> str:
        if self.message is None:
            return ""
        for option in self.message.options:
            if isinstance(option, dns.edns.EDEOption):
                return f"{int(option.code)} {option.text}"
        return ""


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        future = self.waiting.pop(struct.unpack("!H", data[:2])[0], None)
        if future is not None and not future.done():
            future.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """A server that is away is seen as silence."""


async def ask_all(
    names: Sequence[str], port: int, *, rdtype: str = "A", timeout: float = 10.0, sockets: int = SOCKETS
) -> list[Answer]:
    """Ask for all names at once, from several ports."""
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(min(sockets, len(names))):
        transport, client = await loop.create_datagram_endpoint(_Client, remote_addr=("127.0.0.1", port))
        clients.append((transport, client))
    try:
        questions = []
        for number, name in enumerate(names):
            query = dns.message.make_query(name, rdtype, use_edns=0)
            query.id = number % 65536
            questions.append((name, query.id, query.to_wire()))
        asked = [_ask(clients[number % len(clients)][1], *each, timeout) for number, each in enumerate(questions)]
        return list(await asyncio.gather(*asked))
    finally:
        for transport, _ in clients:
            transport.close()


async def ask(name: str, port: int, *, rdtype: str = "A", timeout: float = 5.0) -> Answer:
    """Ask one question."""
    return (await ask_all([name], port, rdtype=rdtype, timeout=timeout))[0]


async def _ask(client: _Client, name: str, id: int, wire: bytes, timeout: float) -> Answer:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    client.waiting[id] = future
    assert client.transport is not None
    begun = monotonic()
    client.transport.sendto(wire)
    try:
        async with asyncio.timeout(timeout):
            data = await future
    except TimeoutError:
        client.waiting.pop(id, None)
        return Answer(name, None, monotonic() - begun)
    return Answer(name, dns.message.from_wire(data), monotonic() - begun)


class SteadyLoad:
    """Asks for one name again and again until it is stopped; counts the answers that were wrong or missing."""

    def __init__(
        self, name: str, address: str, port: int, pause_s: float = 0.005, source: tuple[str, int] | None = None
    ) -> None:
        self._source = source
        self._name, self._address, self._port, self._pause_s = name, address, port, pause_s
        self.answered = 0
        self.failures: list[tuple[float, str]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SteadyLoad:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_datagram_endpoint(
            _Client, local_addr=self._source, remote_addr=("127.0.0.1", self._port)
        )
        wire = bytearray(dns.message.make_query(self._name, "A").to_wire())
        id = random.randrange(65536)
        try:
            while True:
                id = (id + 1) % 65536
                wire[:2] = struct.pack("!H", id)
                answer = await _ask(client, self._name, id, bytes(wire), 2.0)
                if answer.addresses == [self._address]:
                    self.answered += 1
                else:
                    self.failures.append((monotonic(), answer.rcode))
                await asyncio.sleep(self._pause_s)
        finally:
            transport.close()
