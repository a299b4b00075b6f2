"""Questions that are held because this replica does not know all names yet. They are never denied.

the names become known    the question is looked at again, as if it had come just then
HOLD_S is over            SERVFAIL with the reason (RFC 8914): the client asks another replica, or asks again
too many are held         SERVFAIL at once
the client is gone        the question is forgotten
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_dns.rules.exchange import Exchange

HOLD_S = 1.2
"""PowerDNS Recursor gives up on a server after 1.5 s (network-timeout), and then for a minute."""


@dataclass
class HeldQuestions:
    """All questions that are held, in the order in which they came."""

    limit: int
    _held: dict[tuple[Hashable, bytes], Exchange] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many questions are held."""
        return len(self._held)

    def hold(self, exchange: Exchange) -> bool:
        """Hold a question; return False if there is no room. The same packet sent again joins the first one."""
        identity = (exchange.client.id, exchange.data)
        if identity not in self._held:
            if len(self._held) >= self.limit:
                return False
            self._held[identity] = exchange
        return True

    def drop_client(self, client: Hashable) -> None:
        """Forget the questions of a client that is gone."""
        for identity in [each for each in self._held if each[0] == client]:
            del self._held[identity]

    def release(self) -> list[Exchange]:
        """Take out all that is held."""
        held, self._held = self._held, {}
        return list(held.values())

    def due(self, now: float) -> list[Exchange]:
        """Take out what can be held no longer."""
        found = []
        while self._held:
            identity, exchange = next(iter(self._held.items()))
            if exchange.arrived + HOLD_S > now:
                break
            found.append(self._held.pop(identity))
        return found

    def deadline(self) -> float | None:
        """Return when the first of them is due."""
        return next((exchange.arrived + HOLD_S for exchange in self._held.values()), None)
