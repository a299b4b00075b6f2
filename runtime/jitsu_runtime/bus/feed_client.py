"""A follower's end of a feed: drives the machine of wire/feed.py over a link.

`run()` lasts as long as the link; it belongs in the process's TaskGroup.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import FeedItem
from jitsu_protocol.model import errors
from jitsu_protocol.wire.codec import body_as, decode
from jitsu_protocol.wire.feed import (
    ApplyItem,
    AskSnapshot,
    FeedAction,
    FeedEvent,
    ItemReceived,
    Reset,
    SnapshotFailed,
    SnapshotReceived,
    Subscription,
)
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from jitsu_runtime.bus.links import FollowerLink
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Snapshot

log = structlog.get_logger("bus")


class FeedClient:
    """Follows one topic of one owner."""

    def __init__(
        self,
        link: FollowerLink,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`ask` calls the owner's rpc; `reset` takes its state, `apply` each later item, in order."""
        self._link = link
        self._topic = topic
        self._ask, self._reset, self._apply = ask, reset, apply
        self._machine = Subscription()
        self._driver = Driver[FeedEvent, FeedAction](self._machine, self._perform, clock)
        self._group: asyncio.TaskGroup | None = None
        self._asking: asyncio.Task[None] | None = None
        self.synced = asyncio.Event()
        """Set when the first snapshot has been taken."""

    def is_live(self) -> bool:
        """Say whether the owner is heard and nothing was missed."""
        return self._machine.is_live()

    def is_heard(self) -> bool:
        """Say whether the owner is heard; something may have been missed, and is asked for."""
        return self._machine.is_heard()

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._driver.tick()
                await self._link.attend(self._received)
        finally:
            self._driver.close()
            self._link.close()

    def _received(self, frame: bytes) -> None:
        try:
            envelope = decode(frame)
            item = body_as(FeedItem, envelope.kind, envelope.body)
        except errors.BadRequest as error:
            log.warning("unreadable feed item dropped", topic=self._topic, error=str(error))
            return
        self._driver.handle(ItemReceived(item))

    def _perform(self, actions: Sequence[FeedAction]) -> None:
        for action in actions:
            match action:
                case AskSnapshot():
                    if self._group is not None and (self._asking is None or self._asking.done()):
                        self._asking = self._group.create_task(self._snapshot())
                case Reset(snapshot):
                    self._reset(snapshot)
                    self.synced.set()
                case ApplyItem(item):
                    self._apply(item)

    async def _snapshot(self) -> None:
        try:
            epoch, number, state = await self._ask()
        except errors.JitsuError as error:
            log.debug("no snapshot", topic=self._topic, error=str(error))
            self._driver.handle(SnapshotFailed())
        else:
            self._driver.handle(SnapshotReceived(epoch, number, state))
