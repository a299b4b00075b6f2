"""An owner's end of an rpc over a link in memory: what becomes of a handler's failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Drain, Message, Ping
from jitsu_protocol.model import errors
from jitsu_protocol.wire.codec import decode, encode
from jitsu_runtime.bus.links import Incoming, Sent
from jitsu_runtime.bus.rpc_server import RpcServer
from tests.support.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryLink:
    """Delivers the requests that it is made with, and ends when each has its reply."""

    def __init__(self, *requests: Message) -> None:
        self.requests = requests
        self.replies: dict[bytes, tuple[str, str]] = {}
        self._all_replied = asyncio.Event()

    def send(self, peer: bytes, frame: bytes) -> Sent:
        reply = decode(frame)
        self.replies[reply.id] = (reply.body["code"], reply.body["message"])
        if len(self.replies) == len(self.requests):
            self._all_replied.set()
        return Sent.SENT

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        for number, request in enumerate(self.requests):
            take(Incoming(b"peer", memoryview(encode(request, id=b"%d" % number, timeout=1.0))))
        await self._all_replied.wait()
        raise asyncio.CancelledError

    def close(self) -> None:
        pass


async def test_a_failure_of_any_handler_is_replied_logged_and_counted() -> None:
    def at_once(_: Ping) -> Message:
        raise ZeroDivisionError("at once")

    async def later(_: Drain) -> Message:
        await asyncio.sleep(0)
        raise ZeroDivisionError("later")

    link, counted = MemoryLink(Ping(), Drain(vm="v")), list[str]()
    server = RpcServer(link, {Ping: at_once, Drain: later}, lambda reason: counted.append(reason), VirtualClock())
    with structlog.testing.capture_logs() as logged:
        await asyncio.gather(server.run(), return_exceptions=True)
    assert link.replies == {
        b"0": ("bug", "ZeroDivisionError: at once"),
        b"1": ("bug", "ZeroDivisionError: later"),
    }
    assert [(line["event"], line["kind"]) for line in logged] == [
        ("request failed unexpectedly", "ping"),
        ("request failed unexpectedly", "vmd.drain"),
    ]
    assert counted == ["bug", "bug"]


async def test_a_refusal_of_a_handler_is_replied_as_it_is_and_neither_logged_nor_counted() -> None:
    def refuse(_: Ping) -> Message:
        raise errors.Refused("not idle")

    link, counted = MemoryLink(Ping()), list[str]()
    server = RpcServer(link, {Ping: refuse}, lambda reason: counted.append(reason), VirtualClock())
    with structlog.testing.capture_logs() as logged:
        await asyncio.gather(server.run(), return_exceptions=True)
    assert link.replies == {b"0": ("refused", "not idle")}
    assert (logged, counted) == ([], [])
