"""Follows the tokens that the store has: one that is revoked counts no longer within a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages.tokens import TOKENS, Digests, ReadDigests
from jitsu_protocol.model.errors import JitsuError
from jitsu_runtime.clock import sleep
from jitsu_web.rules.tokens import TokenTable

if TYPE_CHECKING:
    from jitsu_protocol.messages import FeedItem
    from jitsu_protocol.messages.tokens import TokenDigest
    from jitsu_runtime.world import Caller, Followed, Snapshot, World

READ_TIMEOUT_S = 2.0
LOOK_S = 1.0
"""How often it is noted that the store is heard."""


class FollowedTokens:
    """The tokens, kept up to date."""

    def __init__(self, world: World, store: Caller) -> None:
        self.table = TokenTable()
        self._world = world
        self._store = store
        self._feed: Followed | None = None
        self._is_reading = False
        self._is_stale = False

    def start(self) -> None:
        """Begin to follow."""
        self._feed = self._world.subscribe("store", TOKENS, ask=self._ask, reset=self._reset, apply=self._changed)
        self._world.spawn(self._watch(), "tokens")

    async def _ask(self) -> Snapshot:
        read = await self._store.call(ReadDigests(), Digests, READ_TIMEOUT_S)
        return read.epoch, read.number, read.tokens

    def _reset(self, tokens: list[TokenDigest]) -> None:
        self.table.replace(tokens, self._world.clock.now())

    def _changed(self, _: FeedItem) -> None:
        self._is_stale = True
        if not self._is_reading:
            self._is_reading = True
            self._world.spawn(self._read(), "tokens have changed")

    async def _read(self) -> None:
        """Read all tokens, again if they have changed in the meantime or could not be read."""
        try:
            while self._is_stale:
                self._is_stale = False
                try:
                    self._reset((await self._ask())[2])
                except JitsuError:
                    self._is_stale = True  # until then what was read before counts, for TRUST_S
                    await sleep(self._world.clock, LOOK_S)
        finally:
            self._is_reading = False

    async def _watch(self) -> None:
        while True:
            if self._feed is not None and self._feed.is_live() and not self._is_stale:
                self.table.heard(self._world.clock.now())
            await sleep(self._world.clock, LOOK_S)
