"""Queries that wait for the VMs of a name. Their number is bounded, and each has its own deadline.

A client that asks the same question again with another id or from another port waits once more, because it may accept
only an answer to its latest query (Unbound and BIND ask in this way). The very same packet sent again joins the first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.lookup import Hit, Node


@dataclass(slots=True)
class WaitingQuery:
    """One query that waits."""

    exchange: Exchange
    hit: Hit
    deadline: float

    @property
    def identity(self) -> tuple[Hashable, int, bytes]:
        """What makes two packets the same query."""
        query = self.exchange.query
        return (self.exchange.client.id, query.id, query.question)


@dataclass
class Pending:
    """All queries that wait, by the name that they wait for."""

    limit: int
    _by_node: dict[Node, dict[tuple[Hashable, int, bytes], WaitingQuery]] = field(default_factory=dict)
    _due: list[tuple[float, int, WaitingQuery]] = field(default_factory=list)
    _count: int = 0
    _order: int = 0

    def __len__(self) -> int:
        """Return how many queries wait."""
        return self._count

    def add(self, waiting: WaitingQuery) -> bool:
        """Let a query wait; False if there is no room."""
        node = waiting.hit.node
        queries = self._by_node.get(node, {})
        if waiting.identity in queries:
            return True  # the first keeps its deadline: no query waits longer than max_wait
        if self._count >= self.limit:
            return False
        self._by_node[node] = queries
        queries[waiting.identity] = waiting
        self._count += 1
        self._order += 1
        heapq.heappush(self._due, (waiting.deadline, self._order, waiting))
        return True

    def last_deadline(self, node: Node) -> float:
        """Return when the last of a name's queries is due; 0 if none waits."""
        return max((waiting.deadline for waiting in self._by_node.get(node, {}).values()), default=0.0)

    def first(self, node: Node) -> WaitingQuery | None:
        """Return the query that has waited for a name for longest."""
        return next(iter(self._by_node.get(node, {}).values()), None)

    def release(self, node: Node) -> list[WaitingQuery]:
        """Take out all that wait for a name."""
        queries = self._by_node.pop(node, {})
        self._count -= len(queries)
        if not self._by_node:
            self._due.clear()
        return list(queries.values())

    def drop_client(self, client: Hashable) -> None:
        """Forget the queries of a client that is gone (a closed TCP connection)."""
        for node in list(self._by_node):
            for identity in [each for each in self._by_node[node] if each[0] == client]:
                self._take(node, identity)

    def deadline(self) -> float | None:
        """Return when the next query is due."""
        while self._due and not self._holds(self._due[0][2]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> list[WaitingQuery]:
        """Take out all that can wait no longer."""
        found = []
        while self._due and self._due[0][0] <= now:
            waiting = heapq.heappop(self._due)[2]
            if self._holds(waiting):
                self._take(waiting.hit.node, waiting.identity)
                found.append(waiting)
        return found

    def _holds(self, waiting: WaitingQuery) -> bool:
        return self._by_node.get(waiting.hit.node, {}).get(waiting.identity) is waiting

    def _take(self, node: Node, identity: tuple[Hashable, int, bytes]) -> None:
        del self._by_node[node][identity]
        self._count -= 1
        if not self._by_node[node]:
            del self._by_node[node]
