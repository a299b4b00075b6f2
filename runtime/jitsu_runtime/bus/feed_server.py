"""An owner's end of its feed: numbers the items of each topic, and repeats the last number in heartbeats."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from jitsu_protocol.wire.codec import encode
from jitsu_protocol.wire.feed import HEARTBEAT_S, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.messages import FeedItem, Message
    from jitsu_runtime.bus.links import FeedLink

MAX_ITEM_BYTES = 128 * 1024
"""A subscriber that reads nothing has at most 1000 items waiting for it. One that gets a gap instead of an item asks
for a snapshot, which comes in pages."""


class FeedServer:
    """One numbered feed for each topic."""

    def __init__(
        self, link: FeedLink, topics: Sequence[str], epoch: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        """`epoch` gives a name that no earlier start of this owner had."""
        self.feeds = {topic: Publisher(epoch=epoch()) for topic in topics}
        self._link = link

    def publish(self, topic: str, body: Message) -> None:
        """Send the next item of a topic; a subscriber that cannot take it sees the gap."""
        self._publish(topic, self.feeds[topic].item(body))

    def skip(self, topic: str) -> None:
        """Count an item that is longer than MAX_ITEM_BYTES, without making it: subscribers ask for a snapshot."""
        self._publish(topic, self.feeds[topic].skip())

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._link.attend())
                while True:
                    for topic, feed in self.feeds.items():
                        self._publish(topic, feed.heartbeat())
                    await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._link.close()

    def _publish(self, topic: str, item: FeedItem) -> None:
        frame = encode(item)
        if len(frame) > MAX_ITEM_BYTES:
            frame = encode(self.feeds[topic].heartbeat())  # its number says that there was an item
        self._link.publish(topic, frame)
