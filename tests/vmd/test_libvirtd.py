"""libvirt's connections, with a library that plays libvirt: whose they are, and what becomes of those that hang."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisors.libvirt import connections as libvirtd
from jitsu_vmd.hypervisors.libvirt.connections import Connections
from jitsu_vmd.hypervisors.shared.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires


class Connection:
    """What libvirt.open returns."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self.is_open = True
        self.listens = False

    def getType(self) -> str:
        return self._driver

    def isAlive(self) -> bool:
        return self.is_open

    def setKeepAlive(self, interval: int, count: int) -> None:
        assert interval * count > 0

    def domainEventRegisterAny(self, *_: Any) -> int:
        self.listens = True
        return 7

    def domainEventDeregisterAny(self, number: int) -> None:
        assert number == 7
        self.listens = False

    def close(self) -> None:
        self.is_open = False


class Library:
    """A libvirt whose connections can hang while they are opened."""

    VIR_DOMAIN_EVENT_ID_LIFECYCLE = 0
    libvirtError = OSError

    def __init__(self, driver: str = "QEMU") -> None:
        self._driver = driver
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.opening = self.most_at_once = 0
        self.opened: list[Connection] = []

    def open(self, uri: str) -> Connection:
        assert uri == "x:///"
        self.opening += 1
        self.most_at_once = max(self.most_at_once, self.opening)
        time.sleep(0.01)
        assert self.goes_on.wait(20)
        self.opened.append(Connection(self._driver))
        self.opening -= 1
        return self.opened[-1]


@contextmanager
def translating() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(str(error)) from None


def made(library: Library) -> tuple[Connections, Threads]:
    threads = Threads("x", translating)
    connections = Connections("x:///", threads, lambda *_: None)
    connections.library = library
    return connections, threads


async def at_once(threads: Threads, connections: Connections, number: int) -> list[Any]:
    """Have that many threads ask for a connection each; none is done before all have asked."""
    together = threading.Barrier(number)

    def ask() -> Any:
        together.wait(20)
        own = connections.mine()
        together.wait(20)
        return own

    return list(await asyncio.gather(*(threads.run(ask) for _ in range(number))))


async def until(what: Any) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.01)


async def test_each_thread_has_one_of_its_own_and_keeps_it() -> None:
    library = Library()
    connections, threads = made(library)
    assert await connections.connect() == "QEMU"
    first = await at_once(threads, connections, 5)
    assert len(set(first)) == 5
    assert library.opened[0] not in first, "events come on that one, and nobody calls on it"
    assert set(await at_once(threads, connections, 5)) <= set(library.opened[1:])
    assert library.most_at_once == 1, "one is opened at a time"


async def test_domains_of_the_test_driver_are_its_connections() -> None:
    library = Library("Test")
    connections, threads = made(library)
    await connections.connect()
    assert set(await at_once(threads, connections, 3)) == {library.opened[0]}


async def test_one_that_keepalive_has_closed_is_opened_anew() -> None:
    library = Library()
    connections, threads = made(library)
    await connections.connect()
    lost = await threads.run(connections.mine)
    lost.is_open = False
    assert (await threads.run(connections.mine)).is_open
    assert await connections.is_alive(), "the others are there"


async def test_all_are_lost_with_the_one_of_the_events() -> None:
    library = Library()
    connections, threads = made(library)
    await connections.connect()
    before = await threads.run(connections.mine)
    connections.lose()
    assert not await connections.is_alive()
    with pytest.raises(Unavailable, match="x:/// is not connected"):
        await threads.run(connections.mine)
    await until(lambda: not library.opened[0].is_open)
    assert not library.opened[0].listens
    await connections.connect()
    assert await threads.run(connections.mine) is not before


async def test_an_opening_that_hangs_is_waited_for_again_and_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirtd, "OPEN_LIMIT_S", 0.05)
    library = Library()
    connections, threads = made(library)
    library.goes_on.clear()
    for _ in range(3):
        with pytest.raises(Unavailable, match="x:/// does not answer"):
            await connections.connect()
    with pytest.raises(Unavailable, match="is not connected: x:/// does not answer"):
        await threads.run(connections.mine)
    assert library.most_at_once == 1
    library.goes_on.set()
    await until(lambda: library.opened)
    assert await connections.connect() == "QEMU"
    assert len(library.opened) == 1


async def test_a_call_whose_opening_hung_until_all_were_lost_is_not_made() -> None:
    library = Library()
    connections, threads = made(library)
    await connections.connect()
    library.goes_on.clear()
    calls = [threads.run(connections.mine) for _ in range(3)]
    await until(lambda: library.opening)
    connections.lose()
    library.goes_on.set()
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert {str(each) for each in told} == {"x:/// is not connected"}
    assert len(library.opened) == 2, "those that waited for their turn have not opened any"
