"""A world for one service alone, in a test's own event loop: a clock that the test moves, and peers that it plays.

It has no bus. A call is answered at once by what the test has put into `answers`, or is not answered at all; a feed is
followed by taking one snapshot. tests/simulation/ has a world in which all services meet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import TimedOut
from jitsu_protocol.wire.feed import Publisher
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.settings.load import load
from tests.support.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import FeedItem, Message, Request
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Handler, Snapshot


class PlayedPeer:
    """Another service, as the test plays it."""

    def __init__(self, answers: Mapping[type[Request], Callable[[Any], Message]]) -> None:
        self._answers = answers
        self.asked: list[Any] = []

    async def call(self, request: Request, _: Any, timeout: float) -> Any:
        self.asked.append(request)
        await asyncio.sleep(0)
        answer = self._answers.get(type(request))
        if answer is None:
            raise TimedOut(f"no reply within {timeout:g} s")
        return answer(request)


class PlayedFeed:
    """A feed that the service publishes."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self.feeds = {topic: Publisher(epoch="e") for topic in topics}
        self.published: list[Message] = []

    def publish(self, topic: str, body: Message) -> None:
        self.feeds[topic].item(body)
        self.published.append(body)

    def skip(self, topic: str) -> None:
        self.feeds[topic].skip()


class PlayedFollowed:
    """A feed that the service follows."""

    def __init__(
        self, ask: Callable[[], Awaitable[Snapshot]], reset: Callable[[Any], None], apply: Callable[[FeedItem], None]
    ) -> None:
        self.synced = asyncio.Event()
        self.ask, self.reset, self.apply = ask, reset, apply
        self.live = True

    async def begin(self) -> None:
        """Take a snapshot, as after a gap."""
        _, _, state = await self.ask()
        self.reset(state)
        self.synced.set()

    def is_live(self) -> bool:
        return self.live and self.synced.is_set()

    is_heard = is_live


class PlayedWorld:
    """See above; a World."""

    def __init__(self, service: str, group: asyncio.TaskGroup, **settings: str) -> None:
        """`settings` are as hypervisor__connect="test:///default"."""
        self.service = service
        self.host = ""
        flags = {key.replace("__", "."): value for key, value in settings.items()}
        self.settings: Settings = load(None, {}, {"bus.runtime_dir": "/nonexistent"} | flags)
        self.metrics = Metrics(service)
        self.time = VirtualClock()
        self.clock: Clock = self.time
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.answers: dict[type[Request], Callable[[Any], Message]] = {}
        self.peers: dict[str, PlayedPeer] = {}
        self.followed: dict[str, PlayedFollowed] = {}
        """By owner and topic, as "vmd vm"."""
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
        return self.peers.setdefault(f"{owner} {host}".strip(), PlayedPeer(self.answers))

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
        del host
        followed = self.followed[f"{owner} {topic}"] = PlayedFollowed(ask, reset, apply)
        self.spawn(followed.begin())
        return followed

    def ready(self) -> None:
        self.is_ready = True

    async def settle(self) -> None:
        """Let everything run that waits for no clock."""
        for _ in range(8):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        """Let that much time pass, in steps in which everybody works who has something to do."""
        for _ in range(round(seconds * 4)):
            self.time.advance(0.25)
            await self.settle()
