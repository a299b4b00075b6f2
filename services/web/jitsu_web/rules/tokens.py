"""Tokens: what one looks like, and which are known.

A token has 256 random bits, so its SHA-256 can be kept and published to jitsu-web without a salt or a slow hash: nobody
can guess what it was made from. Nothing but the hash is ever kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_web.rules.callers import ApiRole

PREFIX = "jitsu_"
"""Lets programs that search for leaked secrets recognise one."""
_BYTES = 32
_TOKEN = re.compile(r"jitsu_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True)
class KnownToken:
    """A token that was made, without the token itself."""

    name: str
    role: ApiRole
    digest: str
    created_ts: float
    expires_ts: float | None
    """Unix time; None if it does not expire."""

    def is_over(self, wall: float) -> bool:
        """Return whether it has expired."""
        return self.expires_ts is not None and wall >= self.expires_ts


def new_token() -> str:
    """Return a token that nobody knows yet."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def digest_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenTable:
    """All tokens that are accepted, unless they have expired."""

    def __init__(self, tokens: Iterable[KnownToken] = ()) -> None:
        self._by_digest: dict[str, KnownToken] = {}
        self._by_name: dict[str, KnownToken] = {}
        self.replace(tokens)

    def replace(self, tokens: Iterable[KnownToken]) -> None:
        """Accept these and no others."""
        tokens = list(tokens)
        self._by_digest = {each.digest: each for each in tokens}
        self._by_name = {each.name: each for each in tokens}

    def find(self, token: str, wall: float) -> KnownToken | None:
        """Return the token with a text, None if it is not known or has expired."""
        if not _TOKEN.fullmatch(token):
            return None
        return _if_valid(self._by_digest.get(digest_of(token)), wall)

    def named(self, name: str, wall: float) -> KnownToken | None:
        """Return the token with a name, None if it is not known or has expired."""
        return _if_valid(self._by_name.get(name), wall)


def _if_valid(found: KnownToken | None, wall: float) -> KnownToken | None:
    return None if found is None or found.is_over(wall) else found
