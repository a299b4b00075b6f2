"""Sends that fail: the server goes on, and every answer that arrives is the right one for its asker.

FUZZ_QUERIES=200000 asks that many questions (`make fuzz`).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

import dns.message
import pytest

from jitsu_dns.rules.events import SendResponse, SummonVm
from jitsu_dns.rules.exchange import Client
from jitsu_dns.wires import datagrams
from jitsu_dns.wires.udp import UdpServer
from jitsu_protocol.model.states import VmState
from tests.support.failing_sends import FailingSends, FailingSocket
from tests.support.front import front, state
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu_dns.wires.datagrams import Address

QUERIES = int(os.environ.get("FUZZ_QUERIES", "4000"))
BRIEF = 4000
pytestmark = [pytest.mark.wires, pytest.mark.timeout(3600)] if QUERIES > BRIEF else []
BURST = 200
CLIENTS = 40
WARM, COLD = 8, 4


class Server:
    """The front of a replica on a socket whose sends fail; vmd answers in the next turn."""

    def __init__(self, sends: FailingSends) -> None:
        warm = [make_vm(f"w{n}", f"127.0.1.{n + 1}") for n in range(WARM)]
        cold = [make_vm(f"c{n}", f"127.0.2.{n + 1}") for n in range(COLD)]
        self._front = front(*warm, *cold, max_waiting=10 * BURST)
        for vm in warm:
            state(self._front, VmState.READY, vm)
        self.socket = FailingSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.sends = sends
        self.udp = UdpServer(self.socket, self._warm, self._query, self._after)

    def _warm(self, queries: object, _: object) -> list[bytes | None]:
        return self._front.warm(queries, 1.0)  # type: ignore[arg-type]

    def _query(self, data: bytes, client: Address, address: bytes) -> bytes | None:
        return self._front.query(data, Client(client, address, True), 1.0)

    def _after(self) -> None:
        for action in self._front.take():
            if isinstance(action, SendResponse):
                assert isinstance(action.client, tuple)
                self.udp.send(action.data, action.client)
            elif isinstance(action, SummonVm):
                asyncio.get_running_loop().call_soon(self._summoned, action.vm)

    def _summoned(self, vm: str) -> None:
        self._front.summoned(vm, 1.0)
        self._after()


class Clients:
    """Sockets that know what they have asked, and what would be the right answer."""

    def __init__(self, server: tuple[str, int], chance: random.Random) -> None:
        self._chance, self._asked = chance, 0
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(CLIENTS)]
        self._waiting: list[dict[int, tuple[str, str]]] = [{} for _ in self._sockets]
        self.seen: Counter[str] = Counter()
        for each in self._sockets:
            each.connect(server)
            each.setblocking(False)

    def ask(self) -> None:
        number = self._chance.randrange(CLIENTS)
        self._asked += 1
        id = self._asked % 65536
        kind = self._chance.choice("wwwwwcn?")
        which = self._chance.randrange(COLD if kind == "c" else WARM)
        name = f"{kind}{which}.jitsu.test."
        expected = {"w": f"127.0.1.{which + 1}", "c": f"127.0.2.{which + 1}", "n": "NXDOMAIN", "?": "FORMERR"}[kind]
        if kind == "?":
            data = id.to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + b"\77cut short"
        else:
            query = dns.message.make_query(name, "A")
            query.id = id
            data = query.to_wire()
        self._waiting[number][id] = name, expected
        self._sockets[number].send(data)

    def read(self) -> int:
        """Check what has come; return how many answers that were."""
        count = 0
        for each, waiting in zip(self._sockets, self._waiting, strict=True):
            while True:
                try:
                    answer = dns.message.from_wire(each.recv(2000))
                except BlockingIOError:
                    break
                name, expected = waiting.pop(answer.id)  # else it is another client's, or comes twice
                count += 1
                self.seen[name[0]] += 1
                if expected != "FORMERR":
                    assert answer.question[0].name.to_text() == name
                found = [record.to_text() for rrset in answer.answer for record in rrset]
                assert (found or [answer.rcode().name]) == [expected]
        return count

    def forget(self) -> None:
        for waiting in self._waiting:
            waiting.clear()

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize("every", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("calls", ["batches", "singly"])
async def test_whatever_sends_fail_with_each_answer_that_arrives_is_the_askers_own(
    calls: str, every: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sends = FailingSends(every)
    sends.install(monkeypatch)
    monkeypatch.setattr(datagrams, "HAS_BATCHES", calls == "batches")
    server = Server(sends)
    serving = asyncio.create_task(server.udp.run())
    clients = Clients(server.socket.getsockname(), random.Random(every))
    asked = arrived = 0
    try:
        while asked < QUERIES // 10:  # there are ten of these tests
            for _ in range(BURST):
                clients.ask()
            asked += BURST
            limit = monotonic() + 10
            while arrived + sends.failed < asked:
                assert monotonic() < limit, f"{asked} asked, {arrived} answered, {sends.failed} sends failed"
                assert not serving.done(), serving
                await asyncio.sleep(0)
                arrived += clients.read()
            clients.forget()
    finally:
        serving.cancel()
        clients.close()
    assert server.udp.unsent.total() == sends.failed
    assert sends.failed == asked // every
    if every > 1:
        assert set(clients.seen) == set("wcn?")
    with capsys.disabled():
        if QUERIES > BRIEF:
            print(f"\n{calls}: {asked} asked, {sends.failed} sends failed, {arrived} right answers: {clients.seen}")
