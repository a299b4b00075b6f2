"""Which clients may do what. How much of it they may do is in rates.py.

A client is known by its address as bytes, 4 or 16 of them; an IPv4 address in an IPv6 socket counts as IPv4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.rates import Networks

V4_NETWORK_BYTES = 3
V6_NETWORK_BYTES = 7
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


def plain(address: bytes) -> bytes:
    """Return an address without the IPv6 form around an IPv4 one (RFC 4291, 2.5.5.2)."""
    return address[12:] if address.startswith(_V4_MAPPED) else address


def network(address: bytes) -> bytes:
    """Return what stands for the network of an address: a /24 or a /56, as in BIND and Knot."""
    return address[:V4_NETWORK_BYTES] if len(address) == 4 else address[:V6_NETWORK_BYTES]


def may_summon(allowed: Networks, address: bytes) -> bool:
    """Return whether a client may start VMs: one in `allowed`, or anybody if that is empty (dns.summon_for)."""
    return not allowed or address in allowed
