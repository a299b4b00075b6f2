"""Keeps the tokens of the HTTP API in a file beside the repository, and publishes that they have changed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Done
from jitsu_protocol.messages.tokens import (
    TOKENS,
    CreateToken,
    Digests,
    ListTokens,
    ReadDigests,
    RevokeToken,
    TokenInfo,
    TokenList,
    TokensChanged,
)
from jitsu_protocol.model.errors import Unavailable
from jitsu_store.rules import tokens as rules

if TYPE_CHECKING:
    from jitsu_protocol.messages import Request
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Feed, Handler
    from jitsu_store.wires.storage import Storage

FILE = "jitsu-tokens.json"

log = structlog.get_logger("store")


class TokenKeeper:
    """The tokens of this store."""

    def __init__(self, storage: Storage, feed: Feed, clock: Clock) -> None:
        """Read them; if that fails, there are none, and that is logged: nobody is let in by mistake."""
        self._files = storage.files
        self._feed = feed
        self._clock = clock
        self._worker = storage.worker("tokens")
        self._turns = asyncio.Lock()
        self._tokens: rules.Tokens = {}
        self.fault = ""
        """Why they could not be read."""
        try:
            self._tokens = rules.read(self._files.read(FILE))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.fault = f"{self._files.path(FILE)} cannot be read, so no token counts: {error}"
            log.error("cannot read the tokens", error=str(error))

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            CreateToken: self.create,
            RevokeToken: self.revoke,
            ListTokens: self.list,
            ReadDigests: self.digests,
        }

    def close(self) -> None:
        """Let the worker end."""
        self._worker.close()

    async def create(self, request: CreateToken) -> Done:
        """Answer CreateToken: what it makes is on the disk."""
        async with self._turns:
            self._check_readable()
            tokens = rules.created(self._tokens, request, self._clock.wall())
            if tokens is not None:
                await self._keep(tokens)
                log.info("token made", name=request.name, role=request.role, author=request.author)
        return Done()

    async def revoke(self, request: RevokeToken) -> Done:
        """Answer RevokeToken."""
        async with self._turns:
            self._check_readable()
            tokens = rules.revoked(self._tokens, request)
            if tokens is None:
                return Done(note="there was no such token")
            await self._keep(tokens)
            log.info("token revoked", name=request.name, author=request.author)
        return Done()

    def list(self, _: ListTokens) -> TokenList:
        """Answer ListTokens."""
        known = [TokenInfo.model_validate(each.model_dump(exclude={"digest"})) for each in self._tokens.values()]
        return TokenList(tokens=sorted(known, key=lambda each: each.name))

    def digests(self, _: ReadDigests) -> Digests:
        """Answer ReadDigests."""
        feed = self._feed.feeds[TOKENS]
        return Digests(tokens=[*self._tokens.values()], epoch=feed.epoch, number=feed.number)

    def _check_readable(self) -> None:
        """Raise Unavailable if the file could not be read: writing would destroy what may be in it."""
        if self.fault:
            raise Unavailable(self.fault, hint="repair or remove that file, and restart jitsu-store")

    async def _keep(self, tokens: rules.Tokens) -> None:
        try:
            await self._worker.run(partial(self._files.replace, FILE, rules.written(tokens)))
        except OSError as error:
            raise Unavailable(
                f"{self._files.path(FILE)} cannot be written: {error}", hint="is the disk full?"
            ) from None
        self._tokens = tokens
        self._feed.publish(TOKENS, TokensChanged())
