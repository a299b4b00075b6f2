"""How much of a client's address is recorded for `jitsu why` (the setting `log.privacy`).

dns and synjitsu apply this when they note a fact, so that no other process and no file ever has more of an address.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address

V6_NETWORK_BYTES = 7
"""/56: what a provider usually gives to one customer (RFC 6177). Of IPv4 it is a /24, the smallest network that is
routed between providers."""


class Privacy(StrEnum):
    """How much of it."""

    NETWORK = "network"
    FULL = "full"
    NONE = "none"

    def recorded(self, address: bytes) -> str:
        """Return what is recorded of an address of 4 or 16 bytes; "" of anything else."""
        if self is Privacy.NONE or len(address) not in (4, 16):
            return ""
        if address[:12] == _MAPPED:
            address = address[12:]
        if self is Privacy.FULL:
            return str(ip_address(address))
        if len(address) == 4:
            return f"{address[0]}.{address[1]}.{address[2]}.0/24"
        return f"{ip_address(address[:V6_NETWORK_BYTES] + bytes(16 - V6_NETWORK_BYTES))}/56"


_MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of an IPv4 address in IPv6 (RFC 4291, section 2.5.5.2): its first seven bytes would say nothing."""
