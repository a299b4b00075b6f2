"""Who may ask, who may summon, and how much of it.

A client is known by its address as bytes, 4 or 16 of them; an IPv4 address in an IPv6 socket counts as IPv4. What is
limited is limited per network, since an attacker has many addresses in one: a /24 or a /56, as BIND and Knot have it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from jitsu_protocol.rates import MAX_BUCKETS, Buckets

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jitsu_protocol.rates import Networks

V4_NETWORK_BYTES = 3
V6_NETWORK_BYTES = 7
SLIP = 2
"""Every second response over the limit goes out truncated, so that a client whose address is forged gets to TCP."""
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


def plain(address: bytes) -> bytes:
    """Return an address without the IPv6 form around an IPv4 one (RFC 4291, 2.5.5.2)."""
    return address[12:] if address.startswith(_V4_MAPPED) else address


def network(address: bytes) -> bytes:
    """Return what stands for the network of an address."""
    return address[:V4_NETWORK_BYTES] if len(address) == 4 else address[:V6_NETWORK_BYTES]


class Limited(Enum):
    """What becomes of a response."""

    SEND = auto()
    TRUNCATE = auto()
    DROP = auto()


class ResponseLimit:
    """Response rate limiting over UDP: so many equal answers a second to one network, then every second truncated."""

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
        """Say what becomes of a response; `answer` is equal for those that say the same.

        `sender` is put into `known_exempt` if it is.
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
    """Who may summon, and how often."""

    def __init__(self, allowed: Networks, exempt: Networks, rate: float, burst: float) -> None:
        """`allowed` may summon at all, everyone if there is none; `exempt` as often as they like."""
        self._allowed, self._exempt = allowed, exempt
        self._buckets = Buckets(rate, burst)

    def refusal(self, address: bytes, vms: int, now: float) -> str:
        """Return why a client may not start that many VMs now, or nothing."""
        if self._allowed and address not in self._allowed:
            return "this client may not start VMs (dns.summon_for)"
        if address in self._exempt or self._buckets.take(network(address), now, vms):
            return ""
        return "this network starts too many VMs at once (dns.summon_rate)"
