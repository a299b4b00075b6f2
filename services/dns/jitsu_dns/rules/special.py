"""Special-use names. They are answered here and not forwarded, because other servers know nothing about them.

    localhost                          the loopback addresses                     RFC 6761, 6.3
    test, invalid                      there is nothing below them                RFC 6761, 6.2 and 6.4
    local, and reverse zones of
    link-local addresses               there is nothing: they are multicast DNS's RFC 6762, 22.1
    onion                              there is nothing: they are Tor's           RFC 7686, 2
    home.arpa                          there is nothing, but DS is asked of
                                       others, as it proves that                  RFC 8375, 4
    reverse zones of addresses that
    are used in private                there is nothing                           RFC 6303, 4

If such names are held elsewhere, their zones are listed in `dns.forward_special`. Names that a zone or a VM of ours has
never come here. A name above one of those exists, so it is answered NODATA: NXDOMAIN would hide everything below it
(RFC 8020).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING

from jitsu_dns.rules.message import Rcode, Records, Type, parents, to_wire
from jitsu_dns.rules.records import NEGATIVE_TTL_S, address_records, with_owner

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCALHOST, HOME = to_wire("localhost"), to_wire("home.arpa")
LOCALHOST_TTL_S = 3600
EMPTY_NAMES = ("test", "invalid", "local", "onion", "home.arpa")
PRIVATE_NETWORKS = (
    "0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "192.168.0.0/16", "198.51.100.0/24",
    "203.0.113.0/24", "255.255.255.255/32", "::/128", "::1/128", "fd00::/8", "fe80::/12", "fe90::/12", "fea0::/12",
    "feb0::/12", "2001:db8::/32", *(f"172.{second}.0.0/16" for second in range(16, 32)),
)  # fmt: skip
"""Of which RFC 6303 lists the reverse zones (section 4)."""
_SOA_TIMES_S = (1, 3600, 1200, 604800, NEGATIVE_TTL_S)
"""RFC 6303, section 3, but for the last, which says how long a denial is kept: a VM may get a name there any moment."""
_HEAD = struct.Struct("!HHIH")


def _reverse_zone(network: str) -> str:
    """Return the name of the reverse zone of a network whose length is a multiple of 8, or of 4 for IPv6."""
    parsed = ip_network(network)
    labels = parsed.network_address.reverse_pointer.split(".")
    each = 8 if parsed.version == 4 else 4
    return ".".join(labels[(parsed.max_prefixlen - parsed.prefixlen) // each :])


ZONES = frozenset(map(to_wire, (*EMPTY_NAMES, *map(_reverse_zone, PRIVATE_NETWORKS))))
_LOOPBACK = address_records([IPv4Address("127.0.0.1"), IPv6Address("::1")], LOCALHOST_TTL_S)


class SpecialNames:
    """The names that are answered here."""

    def __init__(self, forwarded: Iterable[str] = ()) -> None:
        """`forwarded` are those of their zones that somebody else holds."""
        self._forwarded = frozenset(map(to_wire, forwarded))

    def answer(self, name: bytes, qtype: int, *, is_above_ours: bool) -> tuple[Rcode, Records] | None:
        """Return the answer to a question about a name that is not held here; None if it is to be forwarded.

        `is_above_ours`: there are names of ours below that name.
        """
        for zone in parents(name):
            if zone in self._forwarded:
                return None
            if zone == LOCALHOST:
                found = [with_owner(record, name) for record in _LOOPBACK.get(qtype, ())]
                return Rcode.NOERROR, Records(b"".join(found), len(found)) if found else _denial(zone)
            if zone in ZONES:
                return self._empty(name, qtype, zone, is_above_ours)
        return None

    @staticmethod
    def _empty(name: bytes, qtype: int, zone: bytes, is_above_ours: bool) -> tuple[Rcode, Records] | None:
        is_apex = name == zone
        if zone == HOME and is_apex and qtype == Type.DS:
            return None
        if is_apex and qtype == Type.SOA:
            return Rcode.NOERROR, Records(_soa(zone), 1)
        if is_apex and qtype == Type.NS:
            return Rcode.NOERROR, Records(_record(zone, Type.NS, zone), 1)
        rcode = Rcode.NOERROR if is_apex or is_above_ours else Rcode.NXDOMAIN
        return rcode, _denial(zone)


def _denial(zone: bytes) -> Records:
    return Records(authority=_soa(zone), authorities=1)


def _soa(zone: bytes) -> bytes:
    return _record(zone, Type.SOA, zone + to_wire("nobody.invalid") + struct.pack("!5I", *_SOA_TIMES_S))


def _record(owner: bytes, rtype: int, rdata: bytes) -> bytes:
    return owner + _HEAD.pack(rtype, 1, NEGATIVE_TTL_S, len(rdata)) + rdata
