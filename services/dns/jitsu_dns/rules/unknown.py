"""Questions that cannot be answered yet, because this replica does not know all names: held, and never denied.

held     the names are known       looked at again, as if it had come just then
held     HOLD_S over               SERVFAIL with the reason (RFC 8914): the client asks another replica, or again
-        too many are held         SERVFAIL at once
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_dns.rules.actions import Asker
    from jitsu_dns.rules.message import Extras, Query

HOLD_S = 1.2
"""PowerDNS Recursor gives a server up after 1.5 s (network-timeout), and then for a minute."""


@dataclass(frozen=True, slots=True)
class HeldQuery:
    """A question that is held."""

    data: bytes
    query: Query
    asker: Asker
    extras: Extras
    arrived: float

    @property
    def deadline(self) -> float:
        """Until when it is held."""
        return self.arrived + HOLD_S


@dataclass
class Unknown:
    """All questions that are held, in the order in which they came."""

    limit: int
    _held: dict[tuple[Hashable, bytes], HeldQuery] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many questions are held."""
        return len(self._held)

    def hold(self, held: HeldQuery) -> bool:
        """Hold a question; False if there is no room. The same packet sent again is the first one."""
        identity = (held.asker.client, held.data)
        if identity not in self._held:
            if len(self._held) >= self.limit:
                return False
            self._held[identity] = held
        return True

    def drop_client(self, client: Hashable) -> None:
        """Forget the questions of a client that is gone."""
        for identity in [each for each in self._held if each[0] == client]:
            del self._held[identity]

    def release(self) -> list[HeldQuery]:
        """Take out all that is held."""
        held, self._held = self._held, {}
        return list(held.values())

    def due(self, now: float) -> list[HeldQuery]:
        """Take out what can be held no longer."""
        found = []
        while self._held:
            identity, held = next(iter(self._held.items()))
            if held.deadline > now:
                break
            found.append(self._held.pop(identity))
        return found

    def next_deadline(self) -> float | None:
        """Return when the first of them is due."""
        return next((held.deadline for held in self._held.values()), None)
