"""The answer table: every held name with its ready-made records.

the name has the type, from VMs       Hit       what is answered depends on which of its VMs are ready
the name has the type, else           Fixed     static records, SOA, NS, PTR
the name is an alias                  the CNAME, and what is found at its target
a name above it has a DNAME           that, the CNAME made from it, and what is found at its target (RFC 6672)
the name exists, the type does not    Fixed     NODATA with the zone's SOA (RFC 2308, 2.2)
the name does not exist               Fixed     as for `*` at its closest ancestor that exists (RFC 4592), else
                                                NXDOMAIN with the zone's SOA (RFC 2308, 2.1; RFC 8020)
no zone holds the name                None

A name that exists here is in a zone: one of `dns.zones`, else one of its own (zones.py). Where a VM's name is also
that of a configured CNAME, or lies below a configured DNAME, the VM is what is answered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from jitsu_dns.rules import records as build
from jitsu_dns.rules.message import MAX_NAME_BYTES, NO_RECORDS, Rcode, Records, Type, parents, to_wire
from jitsu_dns.rules.transfer import MAX_TRANSFERS, Transfer
from jitsu_dns.rules.zones import Zones

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jitsu_dns.rules.records import Authority, StaticRecord
    from jitsu_protocol.model.vm import VM

MAX_ALIASES = 8
"""A longer chain, or a circle, is not followed."""
NOT_OF_THE_TARGET = frozenset({*build.BESIDE_CNAME, Type.ANY})
"""Types that may stand beside a CNAME, so that it does not lead to those of its target."""
WILDCARD = b"\x01*"
_ARPA = b"\4arpa\0"

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
    ttl: int = 0
    """The longest TTL of the answers that are not reported yet."""
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
    targets: list[bytes] = field(default_factory=list)
    """Of its CNAMEs, the latest first: while a name goes from one VM to another there can be two."""
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

    def records(self, held: Sequence[Held], first: int = 0, max_ttl: int | None = None) -> Records:
        """Return the answer with the addresses of these VMs, that of number `first` first, with at most that TTL."""
        turned = [*held[first:], *held[:first]]
        found = [record for each in turned for record in each.records.get(self.qtype, ())]
        if max_ttl is not None:
            found = [build.with_max_ttl(record, max_ttl) for record in found]
        if self.owner:
            found = [build.with_owner(record, self.owner) for record in found]
        return Records(self.prefix.answer + b"".join(found), self.prefix.answers + len(found))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The answer does not depend on any VM's state."""

    rcode: Rcode
    records: Records
    zone: bytes = b""
    leads_outside: bytes = b""
    """Where the aliases in the answer end, if that name is not ours."""


@dataclass(frozen=True, slots=True)
class Wildcards:
    """What no wildcard stands for."""

    excluded: frozenset[bytes] = frozenset()
    """Labels, in lower case."""
    max_labels: int = 0
    """How many labels an asterisk may stand for; 0: any number."""

    def match(self, labels: bytes) -> bool:
        """Return whether an asterisk may stand for these labels, given as on the wire."""
        count = at = 0
        while at < len(labels):
            end = at + labels[at] + 1
            if labels[at + 1 : end] in self.excluded:
                return False
            at, count = end, count + 1
        return not self.max_labels or count <= self.max_labels


NO_EXCEPTIONS = Wildcards()


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


class Table:
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
        self.zones = Zones(zones, authority)
        self._matching = wildcards
        self._nodes: dict[bytes, Node] = {}
        self._by_vm: dict[str, list[Held]] = {}
        self._statics_by_vm: dict[str, list[_Static]] = {}
        self._existing: Counter[bytes] = Counter()  # names, and what is above them (RFC 8020)
        self.wildcards = 0
        """How many of the names are."""
        self.is_reshaped = False
        """Names came or went since this was set to False."""
        self._transfers: list[Transfer] = []
        self._touched: set[bytes] | None = set() if notes_changes else None
        self._links: dict[bytes, int] = {}
        """Configured CNAMEs and DNAMEs, with their type."""
        self._below: Counter[bytes] = Counter()
        """DNAME -> how many names of VMs are below it."""
        for record in static:
            if record.rtype in (Type.CNAME, Type.DNAME):
                self._links[record.key] = record.rtype
            self._add_static(_Static(record.key, record.rtype, record.record, record.target))
        self._has_dnames = Type.DNAME in self._links.values()

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._nodes)

    @property
    def serial(self) -> int:
        """That of all zones."""
        return self.zones.serial

    @property
    def answers_depend_on_others(self) -> bool:
        """Whether the answer for a name may change because another name comes or goes."""
        return bool(self.wildcards or self._links)

    def exists(self, key: bytes) -> bool:
        """Say whether a name or one below it is held."""
        return key in self._existing

    def held_by(self, vm: str) -> Sequence[Held]:
        """Return the names of a VM."""
        return self._by_vm.get(vm, ())

    def replace(self, old: VM | None, new: VM | None) -> None:
        """Take a VM in, out, or in its new form; `publish` afterwards.

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
        """Return the records of a configured zone as it is now, whatever changes while they are taken.

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
        transfer = Transfer(zone, apex, self.zones.soa(zone), self._nodes)
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

    # --- questions ---

    def find(self, key: bytes, qtype: int) -> Hit | Fixed | None:
        """Look a question of class IN up; None if the name is outside all zones."""
        prefix, owner = NO_RECORDS, b""
        for _ in range(MAX_ALIASES):
            node = self._node(key)
            if (above := self._dname_above(key, node)) is not None:
                target = build.synthesized(key, above.key, above.targets[0])
                if target is None:
                    return Fixed(Rcode.YXDOMAIN, _dname_step(prefix, owner, above, b""), above.key)
                prefix = _dname_step(prefix, owner, above, target)
                key = owner = target
                if qtype == Type.CNAME:
                    return Fixed(Rcode.NOERROR, prefix, above.key)
                continue
            if node is None or node.held or not node.targets or qtype in NOT_OF_THE_TARGET or _is_dname(node):
                break
            record = node.static[Type.CNAME][0]
            step = build.with_owner(record, owner) if owner else record
            prefix = Records(prefix.answer + step, prefix.answers + 1)
            key = owner = node.targets[0]
        else:
            return Fixed(Rcode.SERVFAIL, NO_RECORDS)
        if node is not None and any(qtype in held.records for held in node.held):
            return Hit(node, qtype, prefix, owner)
        return self._fixed(key, qtype, node, prefix, owner)

    def _fixed(self, key: bytes, qtype: int, node: Node | None, prefix: Records, owner: bytes) -> Fixed | None:
        zones = self.zones
        zone = zones.of(key)
        if zone is None and node is not None:
            zone = key  # a name that is held here is ours for all types
        found = None if node is None or (qtype == Type.CNAME and node.held) else node.static.get(qtype)
        if found is None and (node is None or not node.held):
            found = list(zones.glue(key, qtype))
        if found:
            packed = [build.with_owner(record, owner) if owner else record for record in found]
            answer = Records(prefix.answer + b"".join(packed), prefix.answers + len(packed))
            return Fixed(Rcode.NOERROR, answer, zone or key)
        if zone is None:
            return Fixed(Rcode.NOERROR, prefix, key, leads_outside=key) if prefix.answers else None
        exists = node is not None or key in self._existing or key == zone or zones.is_name_server(key)
        if not owner and qtype == Type.ANY and exists:
            return Fixed(Rcode.NOERROR, build.minimal_any(build.NEGATIVE_TTL_S), zone)
        if not owner and key == zone and qtype == Type.SOA:
            return Fixed(Rcode.NOERROR, Records(answer=zones.soa(zone), answers=1), zone)
        if not owner and key == zone and qtype == Type.NS and zones.has_name_servers(zone):
            return Fixed(Rcode.NOERROR, zones.name_servers(zone), zone)
        rcode = Rcode.NOERROR if exists else Rcode.NXDOMAIN
        return Fixed(rcode, Records(prefix.answer, prefix.answers, zones.soa(zone), 1), zone)

    def stands_for(self, key: bytes) -> bytes | None:
        """Return the name whose records are a name's: itself or a wildcard, None if there is neither."""
        node = self._node(key)
        return None if node is None else node.key

    def alias_of(self, key: bytes) -> bytes | None:
        """Return where a CNAME or DNAME leads a name, None if none does."""
        node = self._node(key)
        if (above := self._dname_above(key, node)) is not None:
            return build.synthesized(key, above.key, above.targets[0])
        if node is None or node.held or not node.targets or _is_dname(node):
            return None
        return node.targets[0]

    def _node(self, key: bytes) -> Node | None:
        """Return the node of a name, or the wildcard's that stands for it."""
        node = self._nodes.get(key)
        if node is not None or key in self._existing or not self.wildcards:
            return node
        for above in parents(key)[1:]:
            node = self._nodes.get(WILDCARD + above)
            if node is not None:
                return node if self._matching.match(key[: len(key) - len(above)]) else None
            if above in self._existing or above in self.zones:
                return None
        return None

    def _dname_above(self, key: bytes, node: Node | None) -> Node | None:
        """Return the nearest name above this one that has a DNAME, None if a VM has the name itself."""
        if not self._has_dnames or (node is not None and node.held):
            return None
        above = (self._nodes.get(name) for name in parents(key)[1:])
        return next((found for found in above if found is not None and _is_dname(found)), None)

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


def _is_dname(node: Node) -> bool:
    return Type.DNAME in node.static


def _dname_step(prefix: Records, owner: bytes, above: Node, target: bytes) -> Records:
    """Return an answer with a DNAME and, unless there is no target, the CNAME that is made from it."""
    record = above.static[Type.DNAME][0]
    answer = prefix.answer + build.with_owner(record, above.key)
    if not target:
        return Records(answer, prefix.answers + 1)
    alias = build.alias(target, int.from_bytes(record[6:10], "big"))
    return Records(answer + (build.with_owner(alias, owner) if owner else alias), prefix.answers + 2)


def _discount(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
