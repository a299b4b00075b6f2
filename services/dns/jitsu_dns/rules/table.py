"""The answer table: every held name with its ready-made records.

the name has the type, from VMs       Hit       what is answered depends on which of its VMs are ready
the name has the type, else           Fixed     static records, SOA, NS, PTR
the name is an alias                  the CNAME, and what is found at its target
the name exists, the type does not    Fixed     NODATA with the zone's SOA (RFC 2308, 2.2)
the name does not exist               Fixed     as for `*` at its closest ancestor that exists (RFC 4592), else
                                                NXDOMAIN with the zone's SOA (RFC 2308, 2.1; RFC 8020)
no zone holds the name                None
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from jitsu_dns.rules import records as build
from jitsu_dns.rules.message import NO_RECORDS, Rcode, Records, Type, parents, to_wire
from jitsu_dns.rules.transfer import MAX_TRANSFERS, Transfer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jitsu_dns.rules.records import Authority, StaticRecord
    from jitsu_protocol.vm import VM

MAX_ALIASES = 8
"""A longer chain, or a circle, is not followed."""
NOT_OF_THE_TARGET = frozenset({Type.CNAME, Type.ANY, Type.RRSIG, Type.NSEC})
"""Types that may stand beside a CNAME (RFC 4034, 3 and 4), so that it does not lead to those of its target."""
WILDCARD = b"\x01*"

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Held:
    """One name of one VM, and what is counted for it."""

    name: str
    vm: VM
    node: Node
    records: dict[int, tuple[bytes, ...]]
    """Type -> records, each owner a pointer to the question's name."""
    count: int = 0
    """Queries that are not reported yet."""
    used_at: float = 0.0
    """When the latest query came, or the latest answer to one that waited was given."""
    unreported: bool = False


@dataclass(slots=True, eq=False)
class Warm:
    """What is answered for a name and type while the states of its VMs stay as they are."""

    held: tuple[Held, ...]
    """Whose addresses are in the answer."""
    qtype: int
    count: int = 0
    """Answers that are not counted at `held` yet."""
    used_at: float = 0.0
    valid: bool = True


@dataclass(slots=True, eq=False)
class Node:
    """One name."""

    key: bytes
    held: list[Held] = field(default_factory=list)
    static: dict[int, list[bytes]] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    """Of its CNAMEs, in their order: while a name goes from one VM to another there can be two."""
    warm: tuple[Warm, ...] = ()
    """One for each type that was asked for: two at most, and a tuple takes a third of the room of a dict."""
    turn: int = 0
    """Which VM comes first the next time."""

    def of_type(self, qtype: int) -> list[Held]:
        """Return the VMs that have such a record."""
        return [held for held in self.held if qtype in held.records]


@dataclass(frozen=True, slots=True)
class Hit:
    """The question would be answered with addresses of VMs."""

    node: Node
    qtype: int
    prefix: Records = NO_RECORDS
    """Aliases on the way."""
    owner: bytes = b""
    """The owner of the addresses, if it is not the question's name."""

    def records(self, held: Sequence[Held], first: int = 0) -> Records:
        """Return the answer with the addresses of these VMs, that of number `first` first."""
        turned = [*held[first:], *held[:first]]
        found = [record for each in turned for record in each.records.get(self.qtype, ())]
        if self.owner:
            found = [build.with_owner(record, self.owner) for record in found]
        return Records(self.prefix.answer + b"".join(found), self.prefix.answers + len(found))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The answer does not depend on any VM's state."""

    rcode: Rcode
    records: Records
    zone: bytes = b""


class Table:
    """All names of all VMs, what is configured beside them, and the zones that hold them."""

    def __init__(
        self,
        zones: Iterable[str],
        authority: Authority,
        static: Iterable[StaticRecord] = (),
        *,
        notes_changes: bool = False,
    ) -> None:
        """Hold these zones; none given: the parent domain of each name, as the original does.

        `notes_changes`: somebody calls `changed_zones`.
        """
        self._fixed_zones = tuple(zones)
        self._authority = authority
        self._nodes: dict[bytes, Node] = {}
        self._by_vm: dict[str, list[Held]] = {}
        self._zones: dict[bytes, str] = {}
        self._soas: dict[bytes, bytes] = {}
        self._glue: dict[bytes, dict[int, tuple[bytes, ...]]] = {}
        self._wanted_zones: Counter[str] = Counter()
        self._existing: Counter[bytes] = Counter()  # names, and what is above them (RFC 8020)
        self._zones_changed = True
        self.serial = 0
        """Of all zones; the same on all replicas."""
        self.wildcards = 0
        """How many of the names are."""
        self._transfers: list[Transfer] = []
        self._touched: set[bytes] | None = set() if notes_changes else None
        for record in static:
            self._add_static(record.name, record.rtype, record.record, record.target)
            self._want_zone(_parent_domain(record.name), 1)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._nodes)

    def held_by(self, vm: str) -> Sequence[Held]:
        """Return the names of a VM."""
        return self._by_vm.get(vm, ())

    def replace(self, old: VM | None, new: VM | None) -> None:
        """Take a VM in, out, or in its new form; `publish` afterwards."""
        before = {} if old is None else {held.name: held for held in self._by_vm.pop(old.uuid, [])}
        if old is not None:
            self._drop_statics(old)
        if new is not None:
            mine = self._by_vm[new.uuid] = []
            # They do not say their owner: names of one VM with one TTL have them in common.
            records = {ttl: build.address_records(new.addresses, ttl) for ttl in set(new.names.values())}
            for name, ttl in new.names.items():
                mine.append(self._hold(new, name, records[ttl], before.pop(name, None)))
            self._add_statics(new)
        for held in before.values():
            self._changes(held.node)
            held.node.held.remove(held)
            self._release(held.node)
            self._want_zone(_parent_domain(held.name), -1)

    def publish(self, serial: int) -> None:
        """Make the zones of the names that are there now; `serial`, the store's, becomes theirs."""
        self.serial = serial
        self._soas.clear()
        if self._zones_changed:
            self._make_zones()

    def changed_zones(self) -> set[bytes]:
        """Return the zones of which something has changed since the last call."""
        touched, self._touched = self._touched, set()
        if not touched:
            return set(self._zones)  # what else they are made from has
        return {zone for zone in map(self._zone_of, touched) if zone is not None}

    def soa_of(self, zone: bytes) -> bytes | None:
        """Return a held zone's SOA record, with its owner."""
        return self._soa(zone) if zone in self._zones else None

    def transfer(self, zone: bytes) -> Iterator[bytes] | None:
        """Return the records of a held zone as it is now, whatever changes while they are taken; None if too many do.

        They come with their owners, for messages whose question is the zone.
        """
        if len(self._transfers) >= MAX_TRANSFERS:
            return None
        apex = build.name_server_records(self._zones[zone], self._authority)
        for name, glue in self._glue.items():
            node = self._nodes.get(name)
            if self._zone_of(name) == zone and (node is None or not node.held):
                static = {} if node is None else node.static
                found = (records for rtype, records in glue.items() if rtype not in static)
                apex += [build.with_owner(record, name) for records in found for record in records]
        transfer = Transfer(zone, apex, self._soa(zone), self._nodes)
        records = self._transferred(transfer)
        next(records)  # from here on it ends with its `finally`, even if nobody takes a record
        return records

    def _transferred(self, transfer: Transfer) -> Iterator[bytes]:
        self._transfers.append(transfer)
        try:
            yield b""
            yield from transfer.records(lambda key: self._records_of(self._nodes[key]))
        finally:
            self._transfers.remove(transfer)

    @staticmethod
    def _records_of(node: Node) -> list[bytes]:
        """Return all that a name has."""
        static = [
            record for rtype, records in node.static.items() for record in records[: 1 if rtype == Type.CNAME else None]
        ]
        return static + [record for held in node.held for records in held.records.values() for record in records]

    def _changes(self, node: Node) -> None:
        """Note that a name is about to change."""
        if self._touched is not None:
            self._touched.add(node.key)
        for transfer in self._transfers:
            if transfer.wants(node.key):
                transfer.keep(node.key, self._records_of(node))

    def _make_zones(self) -> None:
        self._zones_changed = False
        wanted = {to_wire(zone): zone for zone in (*self._fixed_zones, *self._wanted_zones)}
        self._zones = {
            key: zone
            for key, zone in wanted.items()
            if not any(above in wanted for above in parents(key)[1:])  # that one holds it
        }
        self._glue = {
            to_wire(name): build.glue_records(self._authority, name)
            for zone in self._zones.values()
            for name in self._authority.names_for(zone)
        }

    def find(self, key: bytes, qtype: int) -> Hit | Fixed | None:
        """Look a question of class IN up; None if the name is outside all zones."""
        prefix, owner = NO_RECORDS, b""
        for _ in range(MAX_ALIASES):
            node = self._node(key)
            if node is None or not node.targets or qtype in NOT_OF_THE_TARGET:
                break
            record = node.static[Type.CNAME][0]
            step = build.with_owner(record, owner) if owner else record
            prefix = Records(prefix.answer + step, prefix.answers + 1)
            key = owner = to_wire(node.targets[0])
        else:
            return Fixed(Rcode.SERVFAIL, NO_RECORDS)
        if node is not None and any(qtype in held.records for held in node.held):
            return Hit(node, qtype, prefix, owner)
        return self._fixed(key, qtype, node, prefix, owner)

    def _fixed(self, key: bytes, qtype: int, node: Node | None, prefix: Records, owner: bytes) -> Fixed | None:
        zone = self._zone_of(key)
        found = None if node is None else node.static.get(qtype)
        if found is None:
            found = list(self._glue.get(key, {}).get(qtype, ())) if node is None or not node.held else None
        if found:
            packed = [build.with_owner(record, owner) if owner else record for record in found]
            answer = Records(prefix.answer + b"".join(packed), prefix.answers + len(packed))
            return Fixed(Rcode.NOERROR, answer, zone or key)
        if zone is None:
            return Fixed(Rcode.NOERROR, prefix, key) if prefix.answers else None
        exists = node is not None or key in self._existing or key == zone or key in self._glue
        if not owner and qtype == Type.ANY and exists:
            return Fixed(Rcode.NOERROR, build.minimal_any(build.NEGATIVE_TTL_S), zone)
        if not owner and key == zone and qtype == Type.SOA:
            return Fixed(Rcode.NOERROR, Records(answer=self._soa(zone), answers=1), zone)
        if not owner and key == zone and qtype == Type.NS:
            return Fixed(Rcode.NOERROR, build.name_servers(self._zones[zone], self._authority), zone)
        rcode = Rcode.NOERROR if exists else Rcode.NXDOMAIN
        return Fixed(rcode, Records(prefix.answer, prefix.answers, self._soa(zone), 1), zone)

    def _node(self, key: bytes) -> Node | None:
        """Return the node of a name, or the wildcard's that stands for it."""
        node = self._nodes.get(key)
        if node is not None or key in self._existing:
            return node
        for above in parents(key)[1:]:
            node = self._nodes.get(WILDCARD + above)
            if node is not None or above in self._existing or above in self._zones:
                return node
        return None

    def _soa(self, zone: bytes) -> bytes:
        if zone not in self._soas:
            self._soas[zone] = build.soa(self._zones[zone], self.serial, self._authority)
        return self._soas[zone]

    def _zone_of(self, key: bytes) -> bytes | None:
        for name in parents(key):
            if name in self._zones:
                return name
        return None

    # --- changes ---

    def _hold(self, vm: VM, name: str, records: dict[int, tuple[bytes, ...]], before: Held | None) -> Held:
        """Put a name of a VM in; what was counted for it goes on."""
        if before is not None:
            self._changes(before.node)
            before.vm, before.records = vm, records
            return before
        node = self._need(to_wire(name))
        self._changes(node)
        held = Held(name, vm, node, records)
        node.held.append(held)
        self._want_zone(_parent_domain(name), 1)
        return held

    def _add_statics(self, vm: VM) -> None:
        first = next((name for name in vm.names if not name.startswith("*")), "")
        for name in vm.aliases if first else ():
            self._add_static(name, Type.CNAME, build.alias(first, vm.ttl), first)
            self._want_zone(_parent_domain(name), 1)
        for address in vm.addresses if first else ():
            name = address.reverse_pointer
            self._add_static(name, Type.PTR, build.pointer(first, vm.ttl))
            self._want_zone(name, 1)

    def _drop_statics(self, vm: VM) -> None:
        first = next((name for name in vm.names if not name.startswith("*")), "")
        for name in vm.aliases if first else ():
            self._drop_static(name, Type.CNAME, build.alias(first, vm.ttl), first)
            self._want_zone(_parent_domain(name), -1)
        for address in vm.addresses if first else ():
            self._drop_static(address.reverse_pointer, Type.PTR, build.pointer(first, vm.ttl))
            self._want_zone(address.reverse_pointer, -1)

    def _add_static(self, name: str, rtype: int, record: bytes, target: str = "") -> None:
        node = self._need(to_wire(name))
        self._changes(node)
        node.static.setdefault(rtype, []).append(record)
        if target:
            node.targets.append(target)

    def _drop_static(self, name: str, rtype: int, record: bytes, target: str = "") -> None:
        node = self._nodes[to_wire(name)]
        self._changes(node)
        node.static[rtype].remove(record)
        if not node.static[rtype]:
            del node.static[rtype]
        if target:
            node.targets.remove(target)
        self._release(node)

    def _need(self, key: bytes) -> Node:
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(key)
            self.wildcards += key.startswith(WILDCARD)
            self._existing.update(parents(key))
        return node

    def _release(self, node: Node) -> None:
        """Forget a node that has nothing left."""
        if not node.held and not node.static:
            del self._nodes[node.key]
            self.wildcards -= node.key.startswith(WILDCARD)
            for existing in parents(node.key):
                _discount(self._existing, existing)

    def _want_zone(self, zone: str, by: int) -> None:
        if self._fixed_zones:
            return
        before = len(self._wanted_zones)
        self._wanted_zones[zone] += by
        if not self._wanted_zones[zone]:
            del self._wanted_zones[zone]
        if len(self._wanted_zones) != before:
            self._zones_changed = True


def _discount(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _parent_domain(name: str) -> str:
    """Return the zone of a name: its parent, but never a top-level domain or the root."""
    _, _, parent = name.partition(".")
    return parent if "." in parent else name
