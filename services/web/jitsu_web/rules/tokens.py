"""Which tokens are accepted, as the store has reported them last.

While the store is not heard nobody can revoke a token here, so after TRUST_S tokens no longer count: whoever cuts this
process off from the store does not keep a revoked token alive by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.tokens import digest_of
from jitsu_web.rules.problems import HttpProblem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages.tokens import TokenDigest

TRUST_S = 60.0
"""A store that is restarted or upgraded is back sooner."""


class TokenTable:
    """All tokens; times are of this process's clock, but for `wall`, which is Unix time."""

    def __init__(self) -> None:
        self._by_digest: dict[str, TokenDigest] = {}
        self._by_name: dict[str, TokenDigest] = {}
        self._heard_at: float | None = None

    def replace(self, tokens: Iterable[TokenDigest], now: float) -> None:
        """Accept these and no others."""
        tokens = list(tokens)
        self._by_digest = {each.digest: each for each in tokens}
        self._by_name = {each.name: each for each in tokens}
        self._heard_at = now

    def heard(self, now: float) -> None:
        """Note that the store is heard, and that nothing was missed."""
        if self._heard_at is not None:
            self._heard_at = now

    def is_trusted(self, now: float) -> bool:
        """Return whether the store was heard lately enough to believe what it said."""
        return self._heard_at is not None and now - self._heard_at <= TRUST_S

    def check_trust(self, now: float) -> None:
        """Raise HttpProblem if the store was not heard for too long to believe what it said."""
        if not self.is_trusted(now):
            raise HttpProblem(
                503,
                "the store is not heard, so no token can be checked",
                "`jitsu status` shows whether jitsu-store runs; try again when it does",
            ).with_headers(Retry_After="1")

    def find(self, token: str, wall: float) -> TokenDigest | None:
        """Return the token with a text, None if it is not known or has expired."""
        return _if_valid(self._by_digest.get(digest_of(token)), wall)

    def named(self, name: str, wall: float) -> TokenDigest | None:
        """Return the token with a name, None if it is not known or has expired."""
        return _if_valid(self._by_name.get(name), wall)


def _if_valid(found: TokenDigest | None, wall: float) -> TokenDigest | None:
    if found is None or (found.expires_ts is not None and wall >= found.expires_ts):
        return None
    return found
