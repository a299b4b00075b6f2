"""Resource records, packed to bytes for message.py.

Records of VMs are packed here by hand, because a start with 10,000 VMs waits for them. SOA, NS and TXT come from
dnslib. Records in zone-file form come from dnspython, which knows all types.

A name is `bytes` as on the wire wherever it may have any octets in its labels (RFC 2181, section 11), and `str`
where the configuration has checked that it is a host name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.name
import dns.rdataclass
import dns.zonefile
import dnslib

from jitsu_dns.rules.message import MAX_NAME_BYTES, Records, Type, parents, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address

NEGATIVE_TTL_S = 10
"""How long a resolver may remember that a name is not there (RFC 2308): a name added now is seen soon."""
APEX_TTL_S = 3600
SOA_TIMES_S = (3600, 600, 86400, NEGATIVE_TTL_S)  # refresh, retry, expire, minimum
_NOT_STATIC = frozenset({Type.SOA, Type.NS, Type.OPT, Type.ANY, Type.AXFR, Type.IXFR})
"""SOA and NS are made here, and nobody else has zones below ours."""
POINTER_TO_QUESTION = b"\xc0\x0c"
_HEAD = struct.Struct("!HHIH")


@dataclass(frozen=True)
class Authority:
    """The servers of the zones. Names that are empty are derived from the name of the zone."""

    mname: str = ""
    rname: str = ""
    nameservers: tuple[str, ...] = ()
    glue: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a name server -> its addresses."""
    own_addresses: tuple[str, ...] = ()
    """Where this server is reached: the address of `ns.<zone>`, if no other name server is given."""

    def names_for(self, zone: bytes) -> tuple[bytes, ...]:
        """Return the name servers of a zone."""
        if self.nameservers:
            return tuple(map(to_wire, self.nameservers))
        return (_below(b"ns", zone),)

    def addresses_of(self, name: bytes) -> tuple[str, ...]:
        """Return the addresses of a name server, as far as they are known."""
        known = {to_wire(each): addresses for each, addresses in self.glue.items()}
        return known.get(name, () if self.nameservers else self.own_addresses)


def address_records(addresses: Iterable[IPv4Address | IPv6Address], ttl: int) -> dict[int, tuple[bytes, ...]]:
    """Return type -> records with these addresses, their owner a pointer to the question's name.

    Raises ValueError for an address that no record can hold.
    """
    packed: dict[int, list[bytes]] = {}
    for address in addresses:
        if getattr(address, "scope_id", None) is not None:
            raise ValueError(f"{address} holds only on one interface (RFC 4007), and no DNS record can say on which")
        rtype = Type.A if address.version == 4 else Type.AAAA
        packed.setdefault(rtype, []).append(_record(rtype, ttl, address.packed))
    return {rtype: tuple(records) for rtype, records in packed.items()}


def with_owner(record: bytes, owner: bytes) -> bytes:
    """Return a record whose owner was a pointer to the question with another owner."""
    return owner + record[len(POINTER_TO_QUESTION) :]


def with_max_ttl(record: bytes, most: int) -> bytes:
    """Return a record whose owner is a pointer, with a TTL of at most `most` seconds."""
    rtype, rclass, ttl, length = _HEAD.unpack_from(record, len(POINTER_TO_QUESTION))
    head = _HEAD.pack(rtype, rclass, min(ttl, most), length)
    return record[: len(POINTER_TO_QUESTION)] + head + record[len(POINTER_TO_QUESTION) + _HEAD.size :]


def alias(target: bytes, ttl: int) -> bytes:
    """Return a CNAME record."""
    return _record(Type.CNAME, ttl, target)


def pointer(target: bytes, ttl: int) -> bytes:
    """Return a PTR record."""
    return _record(Type.PTR, ttl, target)


def soa(zone: bytes, serial: int, authority: Authority) -> bytes:
    """Return the SOA record of a zone."""
    mname = to_wire(authority.mname) if authority.mname else authority.names_for(zone)[0]
    rname = to_wire(authority.rname) if authority.rname else _below(b"hostmaster", zone)
    rdata = dnslib.SOA(_labels(mname), _labels(rname), (serial % 2**32, *SOA_TIMES_S))
    return with_owner(_packed(Type.SOA, rdata, NEGATIVE_TTL_S), zone)


def name_servers(zone: bytes, authority: Authority) -> Records:
    """Return the NS records of a zone for its apex, with what addresses are known."""
    answer = name_server_records(zone, authority)
    glue = [
        with_owner(record, name)
        for name in authority.names_for(zone)
        for records in glue_records(authority, name).values()
        for record in records
    ]
    return Records(b"".join(answer), len(answer), additional=b"".join(glue), additionals=len(glue))


def name_server_records(zone: bytes, authority: Authority) -> list[bytes]:
    """Return the NS records of a zone."""
    return [_packed(Type.NS, dnslib.NS(_labels(name)), APEX_TTL_S) for name in authority.names_for(zone)]


def glue_records(authority: Authority, name: bytes) -> dict[int, tuple[bytes, ...]]:
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

    key: bytes
    """Its owner, on the wire, in lower case."""
    rtype: int
    record: bytes
    """Its owner a pointer to the question's name."""
    target: bytes = b""
    """Of a CNAME or DNAME, as `key`."""


def parse_static(line: str) -> StaticRecord:
    """Read a line of a zone file (RFC 1035, section 5): `www.example.org 300 IN TXT "text"`; raises ValueError."""
    try:
        found = dns.zonefile.read_rrsets(line, rdclass=None, default_ttl=APEX_TTL_S, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{line!r} is not a record of a zone file: {error}") from None
    if len(found) != 1:
        raise ValueError(f"{line!r} is not a record of a zone file")
    rrset = found[0]
    rtype = int(rrset.rdtype)
    if rrset.rdclass != dns.rdataclass.IN or rtype in _NOT_STATIC:
        raise ValueError(f"{line!r}: only records of class IN can be given, and neither SOA nor NS")
    target = _canonical(rrset[0].target) if rtype in (Type.CNAME, Type.DNAME) else b""
    record = _record(rtype, int(rrset.ttl), _wire(rrset[0]))
    return StaticRecord(_canonical(rrset.name), rtype, record, target)


def conflicts(records: Sequence[StaticRecord], zones: Iterable[str]) -> list[str]:
    """Return why some records cannot stand beside each other, a line for each name (RFC 1034, 3.6.2; RFC 6672, 2.4)."""
    by_name: dict[bytes, list[StaticRecord]] = {}
    for record in records:
        by_name.setdefault(record.key, []).append(record)
    found = []
    for zone in map(to_wire, zones):
        if any(record.rtype == Type.CNAME for record in by_name.get(zone, ())):
            found.append(f"{readable(zone)} is a zone, so it has other records and cannot be a CNAME")
    for key, there in by_name.items():
        types = [record.rtype for record in there]
        if Type.CNAME in types and any(rtype not in BESIDE_CNAME for rtype in types):
            found.append(f"{readable(key)} has a CNAME and other records; a CNAME stands alone")
        for rtype in (Type.CNAME, Type.DNAME):
            if types.count(rtype) > 1:
                found.append(f"{readable(key)} has {types.count(rtype)} {rtype.name} records; it can have one")
        for above in parents(key)[1:]:
            if any(record.rtype == Type.DNAME for record in by_name.get(above, ())):
                found.append(f"{readable(key)} lies below {readable(above)}, whose DNAME hides it")
    return found


BESIDE_CNAME = frozenset({Type.CNAME, Type.RRSIG, Type.NSEC})
"""RFC 4034, sections 3 and 4."""


def readable(key: bytes) -> str:
    """Return a name on the wire as text, with what is no host name's escaped (RFC 1035, 5.1)."""
    return dns.name.from_wire(key, 0)[0].to_text(omit_final_dot=True)


def synthesized(key: bytes, owner: bytes, target: bytes) -> bytes | None:
    """Return where a DNAME leads a name below its owner (RFC 6672, 2.2), None if the result would be too long."""
    found = key[: -len(owner)] + target
    return found if len(found) <= MAX_NAME_BYTES else None


def _canonical(name: dns.name.Name) -> bytes:
    return _wire(name.canonicalize())


def _wire(thing: Any) -> bytes:
    data = thing.to_wire()
    assert isinstance(data, bytes)
    return data


def _below(label: bytes, zone: bytes) -> bytes:
    """Return a name right below a zone; the zone itself if there is no room for it."""
    found = bytes([len(label)]) + label + zone
    return found if len(found) <= MAX_NAME_BYTES else zone


def _labels(key: bytes) -> dnslib.DNSLabel:
    """Return a name on the wire as dnslib has it."""
    labels = []
    while key[0]:
        labels.append(key[1 : key[0] + 1])
        key = key[key[0] + 1 :]
    return dnslib.DNSLabel(labels)


def _record(rtype: int, ttl: int, rdata: bytes) -> bytes:
    if not 0 <= ttl < 2**31:
        raise ValueError(f"{ttl} is not a TTL (RFC 2181, section 8)")
    return POINTER_TO_QUESTION + _HEAD.pack(rtype, 1, ttl, len(rdata)) + rdata


def _packed(rtype: int, rdata: Any, ttl: int) -> bytes:
    """Pack what dnslib has made without compression, so that it can stand anywhere in a message."""
    buffer = dnslib.DNSBuffer()
    buffer.encode_name = lambda name: buffer.encode_name_nocompress(name)
    rdata.pack(buffer)
    return _record(rtype, ttl, bytes(buffer.data))
