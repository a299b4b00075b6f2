"""The zones in `dns.zones`, and what every zone has: SOA, NS, and the addresses of its name servers.

A name that is held here but lies in none of these zones is a zone of its own. As far as we know, its siblings and the
names below it belong to somebody else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jitsu_dns.rules import records as build
from jitsu_dns.rules.message import parents, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jitsu_dns.rules.message import Records
    from jitsu_dns.rules.records import Authority

MAX_SOAS = 1000
"""SOA records that are kept packed. With wildcards there are as many names as clients can think of."""


class Zones:
    """All zones that are configured."""

    def __init__(self, zones: Iterable[str], authority: Authority) -> None:
        wanted = {to_wire(zone): zone for zone in zones}
        self.names = {
            key: zone
            for key, zone in wanted.items()
            if not any(above in wanted for above in parents(key)[1:])  # that one holds it
        }
        """Key -> name."""
        self.serial = 0
        """Of all zones; the same on all replicas."""
        self._authority = authority
        self._soas: dict[bytes, bytes] = {}
        self._make_glue()

    def _make_glue(self) -> None:
        authority = self._authority
        servers = {to_wire(name) for name in authority.nameservers}
        servers.update(name for zone in self.names for name in authority.names_for(zone))
        self._glue = {name: build.glue_records(authority, name) for name in servers}

    def __contains__(self, key: bytes) -> bool:
        """Return whether a name is the apex of a configured zone."""
        return key in self.names

    def of(self, key: bytes) -> bytes | None:
        """Return the configured zone that a name is in."""
        if not self.names:
            return None
        return next((name for name in parents(key) if name in self.names), None)

    def renumber(self, serial: int) -> None:
        """Give all zones another serial."""
        self.serial = serial
        self._soas.clear()

    def readdress(self, own_addresses: tuple[str, ...]) -> bool:
        """Give `ns.<zone>` the addresses at which this server is reached now; return whether they have changed."""
        if own_addresses == self._authority.own_addresses:
            return False
        self._authority = replace(self._authority, own_addresses=own_addresses)
        self._make_glue()
        return True

    def soa(self, zone: bytes) -> bytes:
        """Return a zone's SOA record with its owner."""
        found = self._soas.get(zone)
        if found is None:
            if len(self._soas) >= MAX_SOAS:
                self._soas.clear()
            found = self._soas[zone] = build.soa(zone, self.serial, self._authority)
        return found

    def has_name_servers(self, zone: bytes) -> bool:
        """Return whether a zone has NS records; a name that is its own zone has only those that are configured."""
        return zone in self.names or bool(self._authority.nameservers)

    def name_servers(self, zone: bytes) -> Records:
        """Return a zone's NS records, with the addresses that are known."""
        return build.name_servers(zone, self._authority)

    def name_server_records(self, zone: bytes) -> list[bytes]:
        """Return a zone's NS records."""
        return build.name_server_records(zone, self._authority)

    def is_name_server(self, key: bytes) -> bool:
        """Return whether a name is a name server's."""
        return key in self._glue

    def glue(self, key: bytes, rtype: int) -> tuple[bytes, ...]:
        """Return the address records of a name server; nothing for any other name."""
        return self._glue.get(key, {}).get(rtype, ())

    def glue_in(self, zone: bytes) -> Iterator[tuple[bytes, dict[int, tuple[bytes, ...]]]]:
        """Yield the name servers in a zone with their address records by type."""
        return ((name, glue) for name, glue in self._glue.items() if self.of(name) == zone)

    def without_address(self) -> list[str]:
        """Return the name servers that lie in a configured zone and of which no address is known."""
        return sorted(build.readable(name) for name, glue in self._glue.items() if not glue and self.of(name))
