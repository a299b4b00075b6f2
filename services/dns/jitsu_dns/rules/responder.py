"""Makes responses, counts them, and keeps them within the limit of their client's network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_dns.rules.events import DROP, Drop, Reply
from jitsu_dns.rules.exchange import with_error
from jitsu_dns.rules.message import NO_RECORDS, respond
from jitsu_dns.rules.rates import Limited

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_dns.rules.exchange import Client, Exchange
    from jitsu_dns.rules.message import Ede, Rcode, Records
    from jitsu_dns.rules.rates import ResponseLimit


@dataclass
class Counts:
    """What has happened since the start, for the metrics. Nothing else reads it."""

    answers: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    """(type, rcode, path): warm, cold, fixed, outside, forwarded, special, denied, other."""
    malformed: int = 0
    late: int = 0
    overflow: int = 0


class Responder:
    """The responses of one replica."""

    def __init__(self, limit: ResponseLimit, counts: Counts) -> None:
        self.limit = limit
        self.counts = counts

    def respond(
        self,
        exchange: Exchange,
        rcode: Rcode,
        path: str,
        records: Records = NO_RECORDS,
        *,
        authoritative: bool = False,
        error: tuple[Ede, str] | None = None,
    ) -> Reply:
        """Answer a query; `path` is what the metrics call the way of that answer."""
        self.counts.answers[exchange.query.qtype, rcode, path] += 1
        extras = exchange.options if error is None else with_error(exchange.options, *error)
        udp = exchange.client.udp
        return Reply(respond(exchange.query, rcode, records, authoritative=authoritative, udp=udp, extras=extras))

    def over_limit(self, exchange: Exchange, alike: Hashable, now: float) -> Reply | Drop | None:
        """Return what is done instead of answering, None if the client may be answered.

        `alike` is equal for answers that say the same.
        """
        if exchange.is_proven or not exchange.client.udp:
            return None
        verdict = self.limit.judge(exchange.client.address, alike, now)
        if verdict is Limited.SEND:
            return None
        return DROP if verdict is Limited.DROP else Reply(exchange.truncated())

    def may_send(self, client: Client, alike: Hashable, now: float) -> bool:
        """Return whether a client may be sent something that cannot be truncated."""
        return not client.udp or self.limit.judge(client.address, alike, now) is Limited.SEND
