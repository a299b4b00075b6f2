"""The answer table: takes VMs in and out, and hands out whole zones. What it answers is in lookup.py.

All records of a VM are made before anything changes, so a VM of which no records can be made costs nobody else an
answer. A transfer that is under way keeps what a name had before it changes (snapshot.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from jitsu_dns.rules import records as build
from jitsu_dns.rules.lookup import NO_EXCEPTIONS, WILDCARD, Held, Lookup, Node, Wildcards
from jitsu_dns.rules.message import MAX_NAME_BYTES, Type, parents, to_wire
from jitsu_dns.rules.snapshot import ZoneSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jitsu_dns.rules.records import Authority, StaticRecord
    from jitsu_protocol.model.vm import VM

MAX_TRANSFERS = 16
"""Under way at once."""
_ARPA = b"\4arpa\0"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Static:
    """A record that does not depend on a VM's state."""

    key: bytes
    rtype: int
    record: bytes
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class _Built:
    """All records of a VM, made before anything in the table changes: what cannot be made costs that VM only."""

    names: list[tuple[str, bytes, dict[int, tuple[bytes, ...]]]]
    """Name, key, records by type."""
    statics: list[_Static]


class Table(Lookup):
    """All names of all VMs, what is configured beside them, and the zones that hold them."""

    def __init__(
        self,
        zones: Iterable[str],
        authority: Authority,
        static: Iterable[StaticRecord] = (),
        *,
        wildcards: Wildcards = NO_EXCEPTIONS,
        notes_changes: bool = False,
    ) -> None:
        """Hold these zones. `notes_changes`: somebody calls `changed_zones`."""
        super().__init__(zones, authority, wildcards)
        self._by_vm: dict[str, list[Held]] = {}
        self._statics_by_vm: dict[str, list[_Static]] = {}
        self.is_reshaped = False
        """Names came or went since this was set to False."""
        self._transfers: list[ZoneSnapshot] = []
        self._touched: set[bytes] | None = set() if notes_changes else None
        self._below: Counter[bytes] = Counter()
        """DNAME -> how many names of VMs are below it."""
        for record in static:
            if record.rtype in (Type.CNAME, Type.DNAME):
                self._links[record.key] = record.rtype
            self._add_static(_Static(record.key, record.rtype, record.record, record.target))
        self._has_dnames = Type.DNAME in self._links.values()

    @property
    def serial(self) -> int:
        """That of all zones."""
        return self.zones.serial

    def held_by(self, vm: str) -> Sequence[Held]:
        """Return the names of a VM."""
        return self._by_vm.get(vm, ())

    def replace(self, old: VM | None, new: VM | None) -> None:
        """Add, remove or replace a VM; call `publish` afterwards.

        Raises ValueError, and changes nothing, if no records can be made of the new one.
        """
        built = None if new is None else _build(new)
        before: dict[str, Held] = {}
        statics: list[_Static] = []
        if old is not None:
            before = {held.name: held for held in self._by_vm.pop(old.uuid, [])}
            statics = self._statics_by_vm.pop(old.uuid, [])
        if new is not None and built is not None:
            held_now = self._by_vm[new.uuid] = []
            for name, key, records in built.names:
                held_now.append(self._hold(new, name, key, records, before.pop(name, None)))
            self._statics_by_vm[new.uuid] = built.statics
            for static in built.statics:
                if static in statics:
                    statics.remove(static)
                else:
                    self._add_static(static)
        for static in statics:
            self._drop_static(static)
        for held in before.values():
            self._changes(held.node)
            held.node.held.remove(held)
            self._reshape(held.node.key, -1)
            self._release(held.node)

    def publish(self, serial: int) -> None:
        """Give the zones their serial, which is the store's, after names have changed."""
        self.zones.renumber(serial)

    def changed_zones(self) -> set[bytes]:
        """Return the configured zones of which something has changed since the last call."""
        touched, self._touched = self._touched, set()
        if not touched:
            return set(self.zones.names)  # what else they are made from has
        return {zone for zone in map(self.zones.of, touched) if zone is not None}

    def soa_of(self, zone: bytes) -> bytes | None:
        """Return a configured zone's SOA record, with its owner."""
        return self.zones.soa(zone) if zone in self.zones else None

    def hidden_records(self) -> list[str]:
        """Return the names of configured CNAMEs and DNAMEs that are not answered, or not everywhere, because of VMs."""
        found = []
        for key, rtype in self._links.items():
            node = self._nodes[key]
            if rtype == Type.CNAME and (node.held or len(node.targets) > 1):
                found.append(f"{build.readable(key)}: a VM has this name, so its CNAME is not served")
            elif self._below[key]:
                found.append(f"{build.readable(key)}: VMs have names below it, for which its DNAME is not served")
        return found

    def homeless_domains(self) -> list[str]:
        """Return the domains in which names are held that lie in no configured zone; not those for PTR records."""
        found = set()
        for key in self._nodes:
            if not key.endswith(_ARPA) and self.zones.of(key) is None:
                parent = key[key[0] + 1 :]
                found.add(parent if len(parents(parent)) > 1 else key)
        return sorted(map(build.readable, found))

    # --- transfers ---

    def transfer(self, zone: bytes) -> Iterator[bytes] | None:
        """Return the records of a configured zone as it is now, whatever changes while they are sent.

        They come with their owners, for messages whose question is the zone. None if too many transfers are under way.
        """
        if len(self._transfers) >= MAX_TRANSFERS:
            return None
        apex = self.zones.name_server_records(zone)
        for name, glue in self.zones.glue_in(zone):
            node = self._nodes.get(name)
            if node is None or not node.held:
                static = {} if node is None else node.static
                found = (records for rtype, records in glue.items() if rtype not in static)
                apex += [build.with_owner(record, name) for records in found for record in records]
        transfer = ZoneSnapshot(zone, apex, self.zones.soa(zone), self._nodes)
        records = self._transferred(transfer)
        next(records)  # from here on it ends with its `finally`, even if nobody takes a record
        return records

    def _transferred(self, transfer: ZoneSnapshot) -> Iterator[bytes]:
        self._transfers.append(transfer)
        try:
            yield b""
            yield from transfer.records(lambda key: self._records_of(self._nodes[key]))
        finally:
            self._transfers.remove(transfer)

    @staticmethod
    def _records_of(node: Node) -> list[bytes]:
        """Return all that a name has."""
        static: list[bytes] = []
        for rtype, records in node.static.items():
            if rtype != Type.CNAME:
                static += records
            elif not node.held:
                static += records[:1]
        return static + [record for held in node.held for records in held.records.values() for record in records]

    def _changes(self, node: Node) -> None:
        """Note that a name is about to change."""
        if self._touched is not None:
            self._touched.add(node.key)
        for transfer in self._transfers:
            if transfer.wants(node.key):
                transfer.keep(node.key, self._records_of(node))

    # --- changes ---

    def _hold(self, vm: VM, name: str, key: bytes, records: dict[int, tuple[bytes, ...]], before: Held | None) -> Held:
        """Put a name of a VM in; what was counted for it goes on."""
        if before is not None:
            if before.records != records:
                self._changes(before.node)
            before.vm, before.records = vm, records
            return before
        node = self._need(key)
        self._changes(node)
        held = Held(name, vm, node, records)
        node.held.append(held)
        self._reshape(key, 1)
        return held

    def _reshape(self, key: bytes, by: int) -> None:
        """Note that a VM got or lost a name."""
        self.is_reshaped = True
        if self._has_dnames:
            for above in parents(key)[1:]:
                if self._links.get(above) == Type.DNAME:
                    self._below[above] += by

    def _add_static(self, static: _Static) -> None:
        node = self._need(static.key)
        self._changes(node)
        records = node.static.setdefault(static.rtype, [])
        if static.target:
            records.insert(0, static.record)
            node.targets.insert(0, static.target)
        else:
            records.append(static.record)

    def _drop_static(self, static: _Static) -> None:
        node = self._nodes[static.key]
        self._changes(node)
        node.static[static.rtype].remove(static.record)
        if not node.static[static.rtype]:
            del node.static[static.rtype]
        if static.target:
            node.targets.remove(static.target)
        self._release(node)

    def _need(self, key: bytes) -> Node:
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(key)
            self.is_reshaped = True
            self.wildcards += key.startswith(WILDCARD)
            self._existing.update(parents(key))
        return node

    def _release(self, node: Node) -> None:
        """Forget a node that has nothing left."""
        if not node.held and not node.static:
            del self._nodes[node.key]
            self.is_reshaped = True
            self.wildcards -= node.key.startswith(WILDCARD)
            for existing in parents(node.key):
                _discount(self._existing, existing)


def _build(vm: VM) -> _Built:
    """Make the records of a VM; raises ValueError if it has a value that no record can hold."""
    # They do not say their owner: names of one VM with one TTL have them in common.
    records = {ttl: build.address_records(vm.addresses, ttl) for ttl in set(vm.names.values())}
    names = [(name, _checked(name), records[ttl]) for name, ttl in vm.names.items()]
    first = next((key for name, key, _ in names if not name.startswith("*")), None)
    statics: list[_Static] = []
    if first is not None:
        alias, pointer = build.alias(first, vm.ttl), build.pointer(first, vm.ttl)
        statics += [_Static(_checked(name), Type.CNAME, alias, first) for name in vm.aliases]
        statics += [_Static(to_wire(address.reverse_pointer), Type.PTR, pointer) for address in vm.addresses]
    return _Built(names, statics)


def _checked(name: str) -> bytes:
    """Return a name on the wire; raises ValueError if it cannot be there (RFC 1035, 2.3.4)."""
    key = to_wire(name)
    if len(key) > MAX_NAME_BYTES or not all(0 < len(label.encode()) < 64 for label in name.split(".")):
        raise ValueError(f"{name!r} is not a DNS name")
    return key


def _discount(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
