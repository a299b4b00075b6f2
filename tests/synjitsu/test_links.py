"""The ports of a bridge when the kernel reports more than can be read in time (netlink(7))."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from jitsu_synjitsu.wires import links
from jitsu_synjitsu.wires.links import Links

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """A netlink socket that hands out what it is told to, and nothing after that."""

    def __init__(self, *items: bytes | OSError) -> None:
        self.items = list(items)

    def recv(self, _: int) -> bytes:
        item = self.items.pop(0) if self.items else EMPTY
        if isinstance(item, OSError):
            raise item
        return item


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Links, dict[int, bool]]]:
    """Return what makes a Links that reads these items, and the ports that it knows: index -> whether it is up."""
    monkeypatch.setattr(socket, "if_nametoindex", lambda _: BRIDGE)

    def make(*items: bytes | OSError) -> tuple[Links, dict[int, bool]]:
        ports: dict[int, bool] = {}

        def appeared(port: Port) -> None:
            ports[port.index] = port.is_up

        def gone(index: int) -> None:
            del ports[index]

        made = Links("br0", appeared, gone)
        made._events.close()
        made._events = Events(*items)  # type: ignore[assignment]
        return made, ports

    return make


def test_after_an_overrun_what_the_socket_still_holds_does_not_undo_the_list(
    made: Callable[..., tuple[Links, dict[int, bool]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = message(*link(3, is_up=False))
    late = message(*link(5, is_up=True))
    ports_of, known = made(message(*link(4, is_up=True)), FULL, stale, FULL, stale, EMPTY, late)
    monkeypatch.setattr(links, "request", lambda *_: [link(3, is_up=True), link(9, is_up=True, is_port=False)])
    ports_of._read()
    assert known == {3: True}, "4 is gone, and 3 is up: the messages are older than the list"
    ports_of._read()
    assert known == {3: True, 5: True}


def test_a_list_that_fails_is_asked_for_again_and_what_was_known_stays(
    made: Callable[..., tuple[Links, dict[int, bool]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def request(*_: object) -> list[tuple[int, bytes]]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(errno.ETIMEDOUT, "timed out")
        return [link(3, is_up=True)]

    monkeypatch.setattr(links, "request", request)
    monkeypatch.setattr(links, "RETRY_S", 0.0)

    async def reads() -> None:
        ports_of, known = made(message(*link(4, is_up=True)), FULL)
        ports_of._read()
        assert known == {4: True}
        for _ in range(3):
            await asyncio.sleep(0)
        assert known == {3: True}

    asyncio.run(reads())
    assert asked == 2
