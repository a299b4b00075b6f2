"""An owner's end of an rpc over a link in memory: failures of handlers, and large requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Applied, Apply, Drain, Message, Ping
from jitsu_protocol.model import errors
from jitsu_protocol.wire.codec import decode, encode
from jitsu_runtime.bus import rpc_server as module
from jitsu_runtime.bus.links import Incoming, Sent
from jitsu_runtime.bus.rpc_server import RpcServer
from tests.support.bus import running
from tests.support.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


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


class Burst:
    """A link that delivers the same requests twice, each time all of them at once."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames
        self.kinds: list[str] = []

    def send(self, _: bytes, frame: bytes) -> Sent:
        self.kinds.append(decode(frame).kind)
        return Sent.SENT

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        for again in range(1, 3):
            for frame in self._frames:
                take(Incoming(b"peer", memoryview(frame.replace(b"again", b"%5d" % again))))
            while len(self.kinds) < len(self._frames) * again:
                await asyncio.sleep(0)

    def close(self) -> None:
        pass


async def test_g9_large_requests_that_arrive_together_are_counted_before_the_first_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AT_ONCE_BYTES", 100)
    monkeypatch.setattr(module, "MAX_READING_BYTES", 5000)
    request = Apply(changes=[], author="a", message="m" * 2000, request="r")
    link = Burst([encode(request, id=b"again %d" % number, timeout=5.0) for number in range(5)])
    server = RpcServer(link, {Apply: lambda _: Applied(commit="", changed=0)}, lambda _: None)
    async with running(server):
        while len(link.kinds) < 10:
            await asyncio.sleep(0)
    two_of_2_kb_fit_into_5_kb = ["error"] * 3 + ["store.applied"] * 2
    assert link.kinds == two_of_2_kb_fit_into_5_kb * 2
