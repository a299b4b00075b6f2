"""The store's feeds: one for each part of master, and one for where the branches are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import MASTER, Committed, HeadMoved
from jitsu_protocol.messages.tokens import TOKENS
from jitsu_runtime.bus.feed_server import MAX_ITEM_BYTES
from jitsu_store.rules import tree
from jitsu_store.wires.past import changes_of

if TYPE_CHECKING:
    from jitsu_runtime.metrics import Metrics
    from jitsu_runtime.world import Feed
    from jitsu_store.rules.batch import Landed

HEADS = "heads"
VM_TOPIC = "vm"
FEEDS = (*tree.TOPICS, HEADS, TOKENS)


class CommitFeeds:
    """Publishes what has landed."""

    def __init__(self, feed: Feed, metrics: Metrics, serial: int) -> None:
        """`serial` is the serial of the zones that followers know."""
        self._feed = feed
        self._serial = serial
        self._commits = metrics.counter("commits", "Commits made.", ["topic"])

    def publish(self, landed: Landed) -> None:
        """Publish a commit, or a branch that has come or gone."""
        if landed.branch == MASTER:
            for topic, prefix in tree.TOPICS.items():
                self._publish_on(topic, prefix, landed)
            self._serial = landed.serial
        self._feed.publish(HEADS, HeadMoved(branch=landed.branch, commit=landed.commit))

    def _publish_on(self, topic: str, prefix: str, landed: Landed) -> None:
        items, size = {}, 0
        for path, change in landed.changes.items():
            if path.startswith(prefix):
                items[path], size = change, size + len(path)
                if size > MAX_ITEM_BYTES:
                    break
        if items:
            self._commits.labels(topic).inc()
        if size > MAX_ITEM_BYTES:
            self._feed.skip(topic)
        elif items or (topic == VM_TOPIC and landed.serial != self._serial):
            committed = Committed(commit=landed.commit, changes=changes_of(items), serial=landed.serial)
            self._feed.publish(topic, committed)
