"""The world that a service is given. It sees nothing else of the outside that all services have in common.

There are two. The real one is in service.py: ZeroMQ sockets, this machine's clock, a task group that owns all tasks.
The simulated one is in tests/simulation/: virtual time, and a bus in memory that loses, delays, reorders and cuts. What
only one service touches (DNS sockets, packets, the Git repository, a hypervisor) is behind an interface of that
service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jitsu_protocol.messages import Message

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Mapping

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_protocol.wire.feed import Publisher
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.metrics import Metrics
    from jitsu_runtime.settings.load import Settings

R = TypeVar("R", bound=Message)

Handler = Callable[[Any], Message | Awaitable[Message]]
"""Answers one kind of request, at once or later; it may raise any JitsuError instead."""


class Caller(Protocol):
    """Another service's rpc, as its callers have it."""

    async def call(self, request: Request, reply: type[R], timeout: float) -> R:
        """Send a request and return its reply; raises the owner's error, or TimedOut after `timeout` seconds."""


class Feed(Protocol):
    """A feed, as its owner has it."""

    feeds: dict[str, Publisher]
    """By topic: where each stands."""

    def publish(self, topic: str, body: Message) -> None:
        """Send a change to all followers of the topic."""

    def skip(self, topic: str) -> None:
        """Make all followers of the topic ask for a snapshot."""


class Followed(Protocol):
    """A feed, as a follower has it."""

    synced: asyncio.Event
    """Set when the first snapshot has been taken."""

    def is_live(self) -> bool:
        """Say whether the owner is heard and nothing was missed."""

    def is_heard(self) -> bool:
        """Say whether the owner is heard; something may have been missed, and is asked for."""


class World(Protocol):
    """The argument of a service's `start`."""

    service: str
    settings: Settings
    metrics: Metrics
    clock: Clock

    notes: Callable[[], list[str]]
    """Returns sentences that an operator should know; `jitsu status` shows them."""
    left_out: Callable[[], list[str]]
    """Returns notes of the VMs with which this service cannot work (bus/follow.py)."""
    on_stop: Callable[[], Awaitable[None]] | None
    """Awaited after the signal to stop, while the sockets are still open, to send what is left."""
    on_reload: Callable[[Settings], None]
    """Called when settings have changed that can change in a running process."""
    on_hangup: Callable[[], None]
    """Called at every SIGHUP, also if no setting has changed, to read other files again."""

    @property
    def host(self) -> str:
        """Which of several vmds this is; empty for every other service."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Run a coroutine as part of this process; if it fails, the process ends."""

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        """Serve this service's rpc."""

    def publish(self, *topics: str) -> Feed:
        """Serve this service's feed."""

    def client(self, owner: str, host: str = "") -> Caller:
        """Connect to another service's rpc."""

    def vmds(self) -> dict[str, Caller]:
        """Connect to every vmd: host -> caller."""

    def connect(self, endpoint: str, owner: str, host: str = "") -> Caller:
        """Connect to an rpc by its endpoint."""

    def subscribe(
        self,
        owner: str,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        host: str = "",
    ) -> Followed:
        """Follow another service's feed: `ask` calls for a snapshot, `reset` takes it, `apply` each later change.

        `owner` is a service, or the endpoint (`ipc://...`) of a feed that is not in the settings.
        """

    def ready(self) -> None:
        """Notify the service manager that this process does its work now."""


Snapshot = tuple[str, int, Any]
"""(epoch, number, state)"""
