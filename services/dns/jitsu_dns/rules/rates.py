"""How much a client may have: responses over UDP, and VMs that its queries start.

Both are limited per network, because an attacker has many addresses in one: a /24 or a /56 (clients.py).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from jitsu_dns.rules.clients import may_summon, network
from jitsu_protocol.rates import MAX_BUCKETS, Buckets

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_protocol.rates import Networks

SLIP = 2
"""Every second response over the limit is sent truncated, so that a client whose address is forged can use TCP."""


class Limited(Enum):
    """What becomes of a response."""

    SEND = auto()
    TRUNCATE = auto()
    DROP = auto()


class ResponseLimit:
    """Response rate limiting over UDP: so many equal answers per second and network; beyond, every second truncated."""

    def __init__(self, rate: float, exempt: Networks) -> None:
        """`exempt` are networks that are never limited."""
        self._buckets = Buckets(rate, max(rate, 1.0))
        self.exempt = exempt
        self._over = 0
        self.known_exempt: set[Hashable] = set()
        """Senders that need not be judged."""
        self.active = rate > 0
        self.limited = 0
        """Responses that were dropped or truncated."""

    def judge(self, address: bytes, answer: Hashable, now: float, sender: Hashable = None) -> Limited:
        """Decide what becomes of a response; `answer` is equal for those that say the same.

        If the client is exempt, `sender` is added to `known_exempt`.
        """
        if not self.active:
            return Limited.SEND
        if address in self.exempt:
            if len(self.known_exempt) > MAX_BUCKETS:
                self.known_exempt.clear()
            self.known_exempt.add(sender)
            return Limited.SEND
        if self._buckets.take((network(address), answer), now):
            return Limited.SEND
        self.limited += 1
        self._over += 1
        return Limited.TRUNCATE if self._over % SLIP == 0 else Limited.DROP


class SummonLimit:
    """Limits which clients may start VMs, and how many of them in which time."""

    def __init__(self, allowed: Networks, exempt: Networks, rate: float, burst: float) -> None:
        """`allowed` may start VMs at all, everyone if it is empty; `exempt` as many as they like."""
        self._allowed, self._exempt = allowed, exempt
        self._buckets = Buckets(rate, burst)

    def refusal(self, address: bytes, vms: int, now: float) -> str:
        """Return why a client may not start that many VMs now, or nothing."""
        if not may_summon(self._allowed, address):
            return "this client may not start VMs (dns.summon_for)"
        if address in self._exempt or self._buckets.take(network(address), now, vms):
            return ""
        return "this network starts too many VMs at once (dns.summon_rate)"
