"""Which tokens of the HTTP API there are, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from jitsu_protocol.messages.tokens import TokenDigest
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import BadRequest, Conflict, Refused
from jitsu_protocol.model.tokens import MAX_TOKENS
from jitsu_store.rules.access import operator_refusal
from jitsu_store.rules.refusals import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages.tokens import CreateToken, RevokeToken

_FILE: TypeAdapter[list[TokenDigest]] = TypeAdapter(list[TokenDigest])

Tokens = dict[str, TokenDigest]
"""By name."""


def read(data: bytes) -> Tokens:
    """Return the tokens in a file; raises ValueError."""
    try:
        return {each.name: each for each in _FILE.validate_json(data)}
    except ValidationError as error:
        raise ValueError(str(error)) from None


def written(tokens: Tokens) -> bytes:
    """Return the file with these tokens."""
    return _FILE.dump_json(list(tokens.values()), indent=1) + b"\n"


def created(tokens: Tokens, request: CreateToken, wall: float) -> Tokens | None:
    """Return the tokens with a new one, None if it is there already; raises JitsuError."""
    refuse(operator_refusal(identity.parse(request.author), "make tokens"))
    there = tokens.get(request.name)
    if there is not None and there.digest == request.digest:
        return None
    if there is not None and not _is_over(there, wall):
        raise Conflict(f"there is a token {request.name} already", hint="revoke it first, or choose another name")
    if any(each.digest == request.digest for each in tokens.values()):
        raise BadRequest("another token has that digest")
    kept = _without_old(tokens.values(), wall, request.name)
    if len(kept) >= MAX_TOKENS:
        raise Refused(f"there are {MAX_TOKENS} tokens already", hint="`jitsu token revoke` those that nobody uses")
    new = TokenDigest(
        name=request.name,
        role=request.role,
        digest=request.digest,
        created_ts=wall,
        expires_ts=request.expires_ts,
        author=request.author[:200],
    )
    return {**kept, request.name: new}


def revoked(tokens: Tokens, request: RevokeToken) -> Tokens | None:
    """Return the tokens without one, None if it is not there; raises JitsuError."""
    refuse(operator_refusal(identity.parse(request.author), "revoke tokens"))
    if request.name not in tokens:
        return None
    return {name: each for name, each in tokens.items() if name != request.name}


def _without_old(tokens: Iterable[TokenDigest], wall: float, name: str) -> Tokens:
    return {each.name: each for each in tokens if each.name != name and not _is_over(each, wall)}


def _is_over(token: TokenDigest, wall: float) -> bool:
    return token.expires_ts is not None and token.expires_ts <= wall
