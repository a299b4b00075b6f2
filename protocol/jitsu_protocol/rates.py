"""Rate limits: client networks, and token buckets.

A client is identified by its address as bytes: 4 for IPv4, 16 for IPv6.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from ipaddress import IPv4Network, IPv6Network

MAX_BUCKETS = 100_000
"""How many clients are limited at once. If there are more, the bucket that was unused for longest is forgotten."""


class Networks:
    """A set of networks."""

    def __init__(self, networks: Iterable[str | IPv4Network | IPv6Network]) -> None:
        """Text is an address with or without a prefix length; raises ValueError."""
        parsed = [ip_network(each, strict=False) for each in networks]
        self._masks = [(each.max_prefixlen // 8, int(each.netmask), int(each.network_address)) for each in parsed]

    def __bool__(self) -> bool:
        """Return whether the set is not empty."""
        return bool(self._masks)

    def __contains__(self, address: bytes) -> bool:
        """Return whether an address is in one of the networks."""
        number = int.from_bytes(address, "big")
        return any(size == len(address) and number & mask == prefix for size, mask, prefix in self._masks)


@dataclass
class Buckets:
    """Token buckets, one per key: `burst` tokens at once, then `rate` a second. A rate of 0 means no limit."""

    rate: float
    burst: float
    _levels: OrderedDict[Hashable, tuple[float, float]] = field(default_factory=OrderedDict)
    """The tokens that each key had left, and when that was, in seconds."""

    def take(self, key: Hashable, now: float, count: int = 1) -> bool:
        """Take `count` tokens, or none if there are too few; return whether they were taken."""
        if not self.rate:
            return True
        tokens, at = self._levels.pop(key, (self.burst, now))
        tokens = min(self.burst, tokens + (now - at) * self.rate)
        enough = tokens >= count
        self._levels[key] = (tokens - count if enough else tokens, now)
        if len(self._levels) > MAX_BUCKETS:
            self._levels.popitem(last=False)
        return enough
