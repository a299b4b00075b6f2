"""The answer table: every held name with its ready-made answers, and whether its VM is ready.

name is a VM's, type has records, VM ready     Warm       answered from bytes
name is a VM's, type has records, else         Cold       needs a summon
name exists, type has none                     NODATA     with the zone's SOA (RFC 2308, 2.2)
name under a held zone                         NXDOMAIN   with the zone's SOA (RFC 2308, 2.1; RFC 8020)
else                                           Outside
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from jitsu_dns.rules.message import Rcode, Records, Type, parents, to_wire
from jitsu_dns.rules.records import NEGATIVE_TTL_S, address_records, minimal_any, soa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.vm import VM


T = TypeVar("T")


@dataclass(slots=True)
class Name:
    """One name of a VM."""

    name: str
    vm: VM
    records: dict[int, Records]
    count: int = 0
    """Queries that are not reported yet."""
    used_at: float = 0.0
    """When the latest query came, or the latest answer to one that waited was given."""
    unreported: bool = False

    def used(self, now: float) -> None:
        """Note that an answer for this name counts from now."""
        self.used_at = now
        self.unreported = True


@dataclass(frozen=True, slots=True)
class Hit:
    """The name is a VM's, and the question would be answered with the VM's address."""

    name: Name
    records: Records


@dataclass(frozen=True, slots=True)
class Fixed:
    """The answer does not depend on any VM's state."""

    rcode: Rcode
    records: Records


class Table:
    """All names of all VMs, and the zones that hold them."""

    def __init__(self, zones: Iterable[str]) -> None:
        """Hold these zones; none given: the parent domain of each name, as the original does."""
        self._fixed_zones = tuple(zones)
        self._names: dict[bytes, Name] = {}
        self._zones: dict[bytes, bytes] = {}  # zone -> its SOA record
        self._wanted_zones: Counter[str] = Counter()
        self._existing: Counter[bytes] = Counter()  # names, and what is above them (RFC 8020)
        self._serial = 0

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._names)

    def names(self) -> Iterable[Name]:
        """Return every name."""
        return self._names.values()

    def replace(self, old: VM | None, new: VM | None) -> None:
        """Take a VM in, out, or in its new form; `publish` afterwards."""
        before = {}
        if old is not None:
            before = {name: self._drop(name) for name in old.names}
        if new is not None:
            for name, ttl in new.names.items():
                self._put(Name(name, new, address_records(new.addresses, ttl)), before.get(name))

    def publish(self, serial: int) -> None:
        """Make the zones of the names that are there now; `serial` becomes theirs (it never goes back)."""
        self._serial = max(self._serial + 1, serial)
        wanted = {to_wire(zone): zone for zone in self._fixed_zones or self._wanted_zones}
        self._zones = {
            key: soa(zone, self._serial)
            for key, zone in wanted.items()
            if not any(above in wanted for above in parents(key)[1:])  # that one holds it
        }

    def find(self, key: bytes, qtype: int) -> Hit | Fixed | None:
        """Look a question of class IN up; None if the name is outside all zones."""
        name = self._names.get(key)
        if name is not None:
            records = name.records.get(qtype)
            if records is not None:
                return Hit(name, records)
        zone = self._zone_of(key)
        if zone is None:
            return None
        if qtype == Type.ANY and (name is not None or key == zone):
            return Fixed(Rcode.NOERROR, minimal_any(NEGATIVE_TTL_S))
        if key == zone and qtype == Type.SOA:
            return Fixed(Rcode.NOERROR, Records(answer=self._zones[zone], answers=1))
        rcode = Rcode.NOERROR if key in self._existing or key == zone else Rcode.NXDOMAIN
        return Fixed(rcode, Records(authority=self._zones[zone], authorities=1))

    def _put(self, name: Name, before: Name | None) -> None:
        if before is not None:
            name.count, name.used_at, name.unreported = before.count, before.used_at, before.unreported
        key = to_wire(name.name)
        self._names[key] = name
        self._existing.update(parents(key))
        self._wanted_zones[_parent_domain(name.name)] += 1

    def _drop(self, name: str) -> Name:
        key = to_wire(name)
        for existing in parents(key):
            _discount(self._existing, existing)
        _discount(self._wanted_zones, _parent_domain(name))
        return self._names.pop(key)

    def _zone_of(self, key: bytes) -> bytes | None:
        for name in parents(key):
            if name in self._zones:
                return name
        return None


def _discount(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _parent_domain(name: str) -> str:
    """Return the zone of a name: its parent, but never a top-level domain or the root."""
    _, _, parent = name.partition(".")
    return parent if "." in parent else name
