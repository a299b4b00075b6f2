"""Resource records, built when the zone changes, packed to bytes for message.py: those of VMs by dnslib, those that
are written in zone-file form by dnspython, which knows all types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.rdataclass
import dns.zonefile
import dnslib

from jitsu_dns.rules.message import Records, Type, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv6Address

NEGATIVE_TTL_S = 10
"""How long a resolver may remember that a name is not there (RFC 2308): a name added now is seen soon."""
APEX_TTL_S = 3600
SOA_TIMES_S = (3600, 600, 86400, NEGATIVE_TTL_S)  # refresh, retry, expire, minimum
_NOT_STATIC = frozenset({Type.SOA, Type.NS, Type.OPT, Type.ANY, Type.AXFR, Type.IXFR})
"""SOA and NS are made here, and there are no zones of others below ours."""
POINTER_TO_QUESTION = b"\xc0\x0c"


@dataclass(frozen=True)
class Authority:
    """Who serves the zones; names that are empty are made from the zone's."""

    mname: str = ""
    rname: str = ""
    nameservers: tuple[str, ...] = ()
    glue: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a name server -> its addresses."""
    own_addresses: tuple[str, ...] = ()
    """Where this server is reached: the address of `ns.<zone>`, if no other name server is given."""

    def names_for(self, zone: str) -> tuple[str, ...]:
        """Return the name servers of a zone."""
        return self.nameservers or (f"ns.{zone}",)

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name server, as far as they are known."""
        return self.glue.get(name, () if self.nameservers else self.own_addresses)


def address_records(addresses: Iterable[IPv4Address | IPv6Address], ttl: int) -> dict[int, tuple[bytes, ...]]:
    """Return type -> records with these addresses, their owner a pointer to the question's name."""
    packed: dict[int, list[bytes]] = {}
    for address in addresses:
        is_v4 = isinstance(address, IPv4Address)
        rdata = dnslib.A(str(address)) if is_v4 else dnslib.AAAA(str(address))
        rtype = Type.A if is_v4 else Type.AAAA
        packed.setdefault(rtype, []).append(_packed(POINTER_TO_QUESTION, rtype, rdata, ttl))
    return {rtype: tuple(records) for rtype, records in packed.items()}


def with_owner(record: bytes, owner: bytes) -> bytes:
    """Return a record whose owner was a pointer to the question with another owner."""
    return owner + record[len(POINTER_TO_QUESTION) :]


def alias(target: str, ttl: int) -> bytes:
    """Return a CNAME record."""
    return _packed(POINTER_TO_QUESTION, Type.CNAME, dnslib.CNAME(target), ttl)


def pointer(target: str, ttl: int) -> bytes:
    """Return a PTR record."""
    return _packed(POINTER_TO_QUESTION, Type.PTR, dnslib.PTR(target), ttl)


def soa(zone: str, serial: int, authority: Authority) -> bytes:
    """Return the SOA record of a zone."""
    mname = authority.mname or authority.names_for(zone)[0]
    rname = authority.rname or f"hostmaster.{zone}"
    rdata = dnslib.SOA(mname, rname, (serial % 2**32, *SOA_TIMES_S))
    return _packed(to_wire(zone), Type.SOA, rdata, NEGATIVE_TTL_S)


def name_servers(zone: str, authority: Authority) -> Records:
    """Return the NS records of a zone for its apex, with what addresses are known."""
    answer = name_server_records(zone, authority)
    glue = [
        with_owner(record, to_wire(name))
        for name in authority.names_for(zone)
        for records in glue_records(authority, name).values()
        for record in records
    ]
    return Records(b"".join(answer), len(answer), additional=b"".join(glue), additionals=len(glue))


def name_server_records(zone: str, authority: Authority) -> list[bytes]:
    """Return the NS records of a zone."""
    names = authority.names_for(zone)
    return [_packed(POINTER_TO_QUESTION, Type.NS, dnslib.NS(name), APEX_TTL_S) for name in names]


def glue_records(authority: Authority, name: str) -> dict[int, tuple[bytes, ...]]:
    """Return the address records of a name server."""
    return address_records(map(ip_address, authority.addresses_of(name)), APEX_TTL_S)


def minimal_any(ttl: int) -> Records:
    """Return what is answered to ANY (RFC 8482, section 4.2)."""
    rdata = b"\x07RFC8482\x00"
    header = POINTER_TO_QUESTION + Type.HINFO.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
    return Records(header + len(rdata).to_bytes(2, "big") + rdata, 1)


def texts(said: Sequence[str], rclass: int) -> Records:
    """Return TXT records of some class, for what the server says of itself."""
    packed = []
    for each in said:
        data = each.encode()[:255]
        rdata = bytes([len(data)]) + data
        head = POINTER_TO_QUESTION + Type.TXT.to_bytes(2, "big") + rclass.to_bytes(2, "big") + bytes(4)
        packed.append(head + len(rdata).to_bytes(2, "big") + rdata)
    return Records(b"".join(packed), len(packed))


@dataclass(frozen=True)
class StaticRecord:
    """A record that is configured beside the VMs."""

    name: str
    rtype: int
    record: bytes
    """Its owner a pointer to the question's name."""
    target: str = ""
    """Of a CNAME."""


def parse_static(line: str) -> StaticRecord:
    """Read a line of a zone file (RFC 1035, section 5): `www.example.org 300 IN TXT "text"`; raises ValueError."""
    try:
        found = dns.zonefile.read_rrsets(line, rdclass=None, default_ttl=APEX_TTL_S, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{line!r} is no record of a zone file: {error}") from None
    if len(found) != 1:
        raise ValueError(f"{line!r} is no record of a zone file")
    rrset = found[0]
    rtype = int(rrset.rdtype)
    if rrset.rdclass != dns.rdataclass.IN or rtype in _NOT_STATIC:
        raise ValueError(f"{line!r}: only records of class IN can be given, and neither SOA nor NS")
    rdata = rrset[0].to_wire()
    head = rtype.to_bytes(2, "big") + b"\0\1" + int(rrset.ttl).to_bytes(4, "big") + len(rdata).to_bytes(2, "big")
    name = rrset.name.to_text(omit_final_dot=True).lower()
    target = str(rrset[0].target.to_text(omit_final_dot=True)).lower() if rtype == Type.CNAME else ""
    return StaticRecord(name, rtype, POINTER_TO_QUESTION + head + rdata, target)


def _packed(owner: bytes, rtype: int, rdata: Any, ttl: int) -> bytes:
    """Pack a record without compression, so that it can stand anywhere in a message."""
    buffer = dnslib.DNSBuffer()
    record = dnslib.RR(".", rtype, rdata=rdata, ttl=ttl)
    buffer.encode_name = lambda name: buffer.encode_name_nocompress(name)
    record.pack(buffer)
    return owner + bytes(buffer.data)[1:]  # after the root, which stood for the owner
