"""A world for one service alone, in a test's own event loop: a clock that the test moves, and peers that it plays.

It has no bus. What the test has put into `answers` answers a call at once. Any other call waits until the test answers
it, and times out like a real one when that much virtual time has passed. A feed that is followed begins with a
snapshot, and the test publishes what comes after it.

What one service needs beside its world is layered on this one: vmd.py plays a hypervisor, dns_replica.py sockets, and
synjitsu_host.py bridges. tests/simulation/ has the other world, in which all services meet on a bus.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import FeedItem
from jitsu_protocol.model.errors import JitsuError, TimedOut
from jitsu_protocol.wire.feed import Publisher
from jitsu_runtime.clock import sleep
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.settings.load import load
from tests.support.clock import VirtualClock
from tests.support.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import Message, Request
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Handler, Snapshot

    Answers = dict[type[Request], Callable[[Any], Message]]

TURNS = 20
"""Of the event loop: as many as anything that a test plays takes until it waits for something that has not happened."""
AGAIN_S = 1.0
"""A follower that did not get a snapshot asks for it again after this long."""


async def settled() -> None:
    """Return when everything has run that waits for no clock and no answer."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


@cache
def _loaded(flags: tuple[tuple[str, str], ...]) -> Settings:
    return load(None, {}, dict(flags))


def settings_of(flags: Mapping[str, str]) -> Settings:
    """Return settings, as from flags by their full names: {"dns.forward": "off"}."""
    return _loaded(tuple(sorted(flags.items())))


class PlayedPeer:
    """Another service's rpc, as the test plays it."""

    def __init__(self, answers: Answers, clock: Clock | None = None) -> None:
        self._answers, self._clock = answers, clock or VirtualClock()
        self.asked: list[Any] = []
        """Every request so far."""
        self.waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        """The requests without an answer, the oldest first."""
        self.refuses: Exception | None = None
        """Raised by each further call, if it is set."""

    async def call(self, request: Request, reply: type[Any], timeout: float) -> Any:
        self.asked.append(request)
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        if type(request) in self._answers:
            return self._answers[type(request)](request)
        return await self._answered(request, timeout)

    async def _answered(self, request: Request, timeout: float) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        entry = (request, answer)
        self.waiting.append(entry)
        timer = self._clock.call_in(timeout, lambda: _fail(answer, TimedOut(f"no reply within {timeout:g} s")))
        try:
            return await answer
        finally:
            timer.cancel()
            if entry in self.waiting:
                self.waiting.remove(entry)

    async def answer(self, reply: Message | Exception) -> Any:
        """Answer the oldest request that waits, and return it."""
        await settled()
        request, answer = self.waiting.pop(0)
        if isinstance(reply, Exception):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)
        await settled()
        return request


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class PlayedFeed:
    """A feed that the service publishes."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self.feeds = {topic: Publisher(epoch="e") for topic in topics}
        self.items: list[tuple[str, Message]] = []
        """What was published: topic and body."""

    def publish(self, topic: str, body: Message) -> None:
        self.feeds[topic].item(body)
        self.items.append((topic, body))

    def of(self, topic: str) -> list[Message]:
        """Return what was published on one topic."""
        return [body for each, body in self.items if each == topic]

    def skip(self, topic: str) -> None:
        self.feeds[topic].skip()


class PlayedFollowed:
    """A feed that the service follows, which the test publishes."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        clock: Clock,
    ) -> None:
        self.synced = asyncio.Event()
        self.live = self.heard = True
        self._ask, self._reset, self._apply, self._clock = ask, reset, apply, clock
        self._number = 0

    async def snapshot(self) -> None:
        """Take a snapshot, as at the beginning and after a gap."""
        while True:
            try:
                _, _, state = await self._ask()
            except JitsuError:
                await sleep(self._clock, AGAIN_S)
            else:
                break
        self._reset(state)
        self.synced.set()

    def publish(self, body: Message) -> None:
        """Let the owner publish a change."""
        self._number += 1
        fields = body.model_dump(mode="json")
        self._apply(FeedItem(epoch="e", number=self._number, body_kind=type(body).kind, body=fields))

    def is_live(self) -> bool:
        return self.live and self.synced.is_set()

    def is_heard(self) -> bool:
        return self.heard and self.synced.is_set()


class PlayedWorld:
    """See above; a World."""

    def __init__(self, service: str, group: asyncio.TaskGroup, **settings: str) -> None:
        """`settings` are as hypervisor__connect="test:///default"."""
        self.service = service
        self.host = ""
        flags = {key.replace("__", "."): value for key, value in settings.items()}
        self.settings = settings_of({"bus.runtime_dir": "/nonexistent"} | flags)
        self.metrics = Metrics(service)
        self.time = VirtualClock()
        self.clock: Clock = self.time
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.answers: Answers = {}
        self.peers: dict[str, PlayedPeer] = {}
        """By owner and host, as "vmd" or "vmd beta"."""
        self.followed: dict[str, PlayedFollowed] = {}
        """By owner, topic and host, as "vmd vm" or "vmd vm beta"."""
        self.handlers: dict[type[Request], Handler] = {}
        self.is_ready = False
        self._group = group

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        return self._group.create_task(work, name=name or None)

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        self.handlers.update(handlers)

    def publish(self, *topics: str) -> PlayedFeed:
        return PlayedFeed(topics)

    def client(self, owner: str, host: str = "") -> PlayedPeer:
        return self.connect("", owner, host)

    def vmds(self) -> dict[str, Any]:
        return {host: self.client("vmd", host) for host in self.settings.bus.vmds}

    def connect(self, _: str, owner: str, host: str = "") -> PlayedPeer:
        return self.peers.setdefault(f"{owner} {host}".strip(), PlayedPeer(self.answers, self.clock))

    def subscribe(
        self,
        owner: str,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        host: str = "",
    ) -> PlayedFollowed:
        followed = PlayedFollowed(ask, reset, apply, self.clock)
        self.followed[f"{owner} {topic} {host}".strip()] = followed
        self.spawn(followed.snapshot())
        return followed

    def ready(self) -> None:
        self.is_ready = True

    async def stop(self) -> None:
        """Do what the service does before it exits."""
        if self.on_stop is not None:
            await self.on_stop()

    async def advance(self, seconds: float) -> None:
        """Let that much time pass at once, and everybody work who has something to do then."""
        self.time.advance(seconds)
        await settled()

    async def pass_time(self, seconds: float) -> None:
        """Let that much time pass, and everybody work at each moment at which somebody has something to do."""
        ends = self.time.now() + seconds
        await settled()
        while (now := self.time.now()) < ends:
            await self.advance(max(0.0, min(self.time.deadline(), ends) - now))


@asynccontextmanager
async def played_world(service: str, **settings: str) -> AsyncIterator[PlayedWorld]:
    """Make a world whose tasks end with it; one that fails ends the test."""
    async with task_group() as group:
        yield PlayedWorld(service, group, **settings)
