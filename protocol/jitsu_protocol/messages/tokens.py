"""Messages about the tokens of the HTTP API, to the store and in its feed. New after protocol 1.2."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import AuthoredRequest, Message, Request
from jitsu_protocol.model.tokens import DIGEST_PATTERN, NAME_PATTERN, TokenRole

TOKENS = "tokens"
"""The topic of the store's feed."""

TokenName = Annotated[str, Field(pattern=NAME_PATTERN)]


class TokenInfo(BaseModel):
    """A token, without what makes it one."""

    model_config = ConfigDict(frozen=True)

    name: TokenName
    role: TokenRole
    created_ts: float
    expires_ts: float | None = None
    """Unix time; None if it does not expire."""
    author: str = Field("", max_length=200)
    """The identity that made it."""


class TokenDigest(TokenInfo):
    """A token as jitsu-web recognises it."""

    digest: str = Field(pattern=DIGEST_PATTERN)
    """Its SHA-256, in hexadecimal digits."""


class CreateToken(AuthoredRequest):
    """An operator to store: accept a new token from now on. Answer: Done.

    The answer is Conflict if another token has that name. If it is sent twice, the second finds it done.
    """

    kind: ClassVar[str] = "store.create-token"

    name: TokenName
    role: TokenRole
    digest: str = Field(pattern=DIGEST_PATTERN)
    expires_ts: float | None = Field(default=None, ge=0, le=2**40)


class RevokeToken(AuthoredRequest):
    """An operator to store: accept a token no longer. Answer: Done, also if there is no such token: see its note."""

    kind: ClassVar[str] = "store.revoke-token"

    name: str = Field(max_length=100)


class ListTokens(Request):
    """An operator to store: list all tokens. Answer: TokenList."""

    kind: ClassVar[str] = "store.tokens"


class TokenList(Message):
    """The answer to ListTokens."""

    kind: ClassVar[str] = "store.token-list"

    tokens: list[TokenInfo]


class ReadDigests(Request):
    """jitsu-web to store: list all tokens, as it recognises them. Answer: Digests.

    This is also the snapshot of the feed `tokens`.
    """

    kind: ClassVar[str] = "store.read-digests"


class Digests(Message):
    """The answer to ReadDigests."""

    kind: ClassVar[str] = "store.digests"

    tokens: list[TokenDigest]
    epoch: str
    number: int


class TokensChanged(Message):
    """In the store's feed `tokens`: a token was made or revoked. A follower reads them all again, for they are few."""

    kind: ClassVar[str] = "feed.tokens"
