"""Resource records, built by dnslib when the zone changes, packed to bytes for message.py."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import dnslib

from jitsu_dns.rules.message import Records, Type, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv6Address

NEGATIVE_TTL_S = 10
"""How long a resolver may remember that a name is not there (RFC 2308): a name added now is seen soon."""
SOA_TIMES_S = (3600, 600, 86400, NEGATIVE_TTL_S)  # refresh, retry, expire, minimum
POINTER_TO_QUESTION = b"\xc0\x0c"


def address_records(addresses: Iterable[IPv4Address | IPv6Address], ttl: int) -> dict[int, Records]:
    """Return type -> records with these addresses, for a question with the same name."""
    packed: dict[int, list[bytes]] = {}
    for address in addresses:
        is_v4 = isinstance(address, IPv4Address)
        rdata = dnslib.A(str(address)) if is_v4 else dnslib.AAAA(str(address))
        rtype = Type.A if is_v4 else Type.AAAA
        packed.setdefault(rtype, []).append(_packed(POINTER_TO_QUESTION, rtype, rdata, ttl))
    return {rtype: Records(b"".join(records), len(records)) for rtype, records in packed.items()}


def soa(zone: str, serial: int) -> bytes:
    """Return the SOA record of a zone."""
    rdata = dnslib.SOA(f"ns.{zone}", f"hostmaster.{zone}", (serial, *SOA_TIMES_S))
    return _packed(to_wire(zone), Type.SOA, rdata, NEGATIVE_TTL_S)


def minimal_any(ttl: int) -> Records:
    """Return what is answered to ANY (RFC 8482, section 4.2)."""
    rdata = b"\x07RFC8482\x00"
    header = POINTER_TO_QUESTION + Type.HINFO.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
    return Records(header + len(rdata).to_bytes(2, "big") + rdata, 1)


def _packed(owner: bytes, rtype: Type, rdata: Any, ttl: int) -> bytes:
    """Pack a record without compression, so that it can stand anywhere in a message."""
    buffer = dnslib.DNSBuffer()
    record = dnslib.RR(".", rtype, rdata=rdata, ttl=ttl)
    buffer.encode_name = lambda name: buffer.encode_name_nocompress(name)
    record.pack(buffer)
    return owner + bytes(buffer.data)[1:]  # after the root, which stood for the owner
