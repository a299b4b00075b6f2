"""The ports of a bridge when the kernel reports more than can be read in time (netlink(7))."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from jitsu_synjitsu.wires import links
from jitsu_synjitsu.wires.links import Links

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jitsu_synjitsu.rules.ports import Port

BRIDGE, NEW, UP = 7, 16, 0x1 | 0x10000
FULL, EMPTY = OSError(errno.ENOBUFS, "No buffer space available"), BlockingIOError(errno.EAGAIN, "nothing to read")


def link(index: int, *, is_up: bool, is_port: bool = True) -> tuple[int, bytes]:
    """Return a message about an interface, as (kind, body)."""
    body = struct.pack("BxHiII", socket.AF_UNSPEC, 1, index, UP if is_up else 0, 0)
    body += struct.pack("HH", 8, 3) + b"tap\0"
    return NEW, body + (struct.pack("HHI", 8, 10, BRIDGE) if is_port else b"")


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, 0, 0, 0) + body


class Events:
    """The netlink socket of a Links: hands out what the kernel is to report, and has nothing to read after that."""

    def __init__(self, *_: object) -> None:
        self.items: list[bytes | OSError] = []
        self._ready = os.eventfd(0, os.EFD_NONBLOCK)

    def reports(self, *items: bytes | OSError) -> None:
        self.items += items
        os.eventfd_write(self._ready, 1)

    def recv(self, _: int) -> bytes:
        if not self.items:
            os.eventfd_read(self._ready)  # which raises BlockingIOError the second time
            raise EMPTY
        item = self.items.pop(0)
        if isinstance(item, OSError):
            raise item
        return item

    async def are_read(self) -> None:
        """Return when everything has been read."""
        while self.items:
            await asyncio.sleep(0)

    def fileno(self) -> int:
        return self._ready

    def close(self) -> None:
        os.close(self._ready)

    def setsockopt(self, *_: object) -> None:
        """Accept any option."""

    bind = setsockopt


class Followed:
    """The ports of a bridge, as a Links reports them."""

    def __init__(self, events: Events, listed: Callable[[], list[tuple[int, bytes]]]) -> None:
        self.events, self.listed = events, listed
        self.known: dict[int, bool] = {}
        """Index -> whether it is up."""

    def appeared(self, port: Port) -> None:
        self.known[port.index] = port.is_up

    def gone(self, index: int) -> None:
        del self.known[index]


@pytest.fixture
async def followed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Followed]:
    """Follow a bridge that has the port 4 at the beginning."""
    monkeypatch.setattr(socket, "if_nametoindex", lambda _: BRIDGE)
    monkeypatch.setattr(links, "RETRY_S", 0.0)
    made = Followed(Events(), lambda: [link(4, is_up=True)])
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", lambda *_: made.events)
        ports = Links("br0", made.appeared, made.gone)
    monkeypatch.setattr(links, "request", lambda *_: made.listed())
    ports.open()
    yield made
    ports.close()


async def test_after_an_overrun_what_the_socket_still_holds_does_not_undo_the_list(followed: Followed) -> None:
    assert followed.known == {4: True}
    stale = message(*link(3, is_up=False))
    followed.listed = lambda: [link(3, is_up=True), link(9, is_up=True, is_port=False)]
    followed.events.reports(FULL, stale, FULL, stale)
    await followed.events.are_read()
    assert followed.known == {3: True}, "4 is gone, and 3 is up: the messages are older than the list"
    followed.events.reports(message(*link(5, is_up=True)))
    await followed.events.are_read()
    assert followed.known == {3: True, 5: True}


async def test_a_list_that_fails_is_asked_for_again_and_what_was_known_stays(followed: Followed) -> None:
    known = []

    def listed() -> list[tuple[int, bytes]]:
        known.append(dict(followed.known))
        if len(known) == 1:
            raise OSError(errno.ETIMEDOUT, "timed out")
        return [link(3, is_up=True)]

    followed.listed = listed
    followed.events.reports(FULL)
    async with asyncio.timeout(5.0):
        while followed.known != {3: True}:
            await asyncio.sleep(0)
    assert known == [{4: True}, {4: True}]
