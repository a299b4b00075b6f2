"""Limits which clients may wake VMs by traffic, and how many: a scan of a network must not boot all of its VMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.rates import Buckets, Networks

V6_NETWORK_BYTES = 8
"""A client has a /64 to itself."""


@dataclass
class WakeLimit:
    """As configured, for all bridges together."""

    allowed: Networks
    """Everyone, if there is none."""
    of_one: Buckets
    of_all: Buckets

    def allow(self, address: bytes, now: float) -> bool:
        """Say whether the owner of an address may wake one more VM now."""
        if self.allowed and address not in self.allowed:
            return False
        source = address if len(address) == 4 else address[:V6_NETWORK_BYTES]
        return self.of_one.take(source, now) and self.of_all.take("", now)

    def allow_magic(self, address: bytes, mac: bytes, now: float) -> bool:
        """Say the same of the sender of a magic packet, which need not have an IP address."""
        if address:
            return self.allow(address, now)
        return not self.allowed and self.of_one.take(mac, now) and self.of_all.take("", now)
