"""The questions that the table answers: every held name with its records, packed beforehand.

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
from typing import TYPE_CHECKING

from jitsu_dns.rules import records as build
from jitsu_dns.rules.message import NO_RECORDS, Rcode, Records, Type, parents
from jitsu_dns.rules.zones import Zones

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitsu_dns.rules.records import Authority
    from jitsu_protocol.model.vm import VM

MAX_ALIASES = 8
"""A longer chain, or a circle, is not followed."""
NOT_OF_THE_TARGET = frozenset({*build.BESIDE_CNAME, Type.ANY})
"""Types that may stand beside a CNAME, so that it does not lead to those of its target."""
WILDCARD = b"\x01*"


@dataclass(slots=True, eq=False)
class Held:
    """One name of one VM, and what is counted for it."""

    name: str
    vm: VM
    node: Node
    records: dict[int, tuple[bytes, ...]]
    """Type -> records; each owner is a pointer to the question's name."""
    count: int = 0
    """Queries that are not reported yet."""
    used_at: float = 0.0
    """When the latest query came, or the latest answer to one that waited was given."""
    ttl: int = 0
    """The longest TTL of the answers that are not reported yet."""
    unreported: bool = False
    sampled_at: float = float("-inf")
    """When one of its clients was noted last, for `jitsu why`."""


@dataclass(slots=True, eq=False)
class Warm:
    """The answer for a name and type, for as long as the states of its VMs stay as they are."""

    held: tuple[Held, ...]
    """The VMs whose addresses are in the answer."""
    qtype: int
    count: int = 0
    """Answers that are not counted at `held` yet."""
    used_at: float = 0.0
    valid: bool = True
    client: bytes = b""
    """The address of the first that was answered since the count was brought to `held`."""


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
        """Return the VMs that have a record of this type."""
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
    """What wildcards do not stand for."""

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


class Lookup:
    """All names, as questions see them; rules/table.py changes them."""

    def __init__(self, zones: Iterable[str], authority: Authority, wildcards: Wildcards) -> None:
        self.zones = Zones(zones, authority)
        self._matching = wildcards
        self._nodes: dict[bytes, Node] = {}
        self._existing: Counter[bytes] = Counter()  # names, and what is above them (RFC 8020)
        self.wildcards = 0
        """How many of the names are."""
        self._links: dict[bytes, int] = {}
        """Configured CNAMEs and DNAMEs, with their type."""
        self._has_dnames = False

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._nodes)

    @property
    def answers_depend_on_others(self) -> bool:
        """Whether the answer for a name may change because another name comes or goes."""
        return bool(self.wildcards or self._links)

    def exists(self, key: bytes) -> bool:
        """Return whether a name or one below it is held."""
        return key in self._existing

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
            if node is None or node.held or not node.targets or qtype in NOT_OF_THE_TARGET or is_dname(node):
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
        if node is None or node.held or not node.targets or is_dname(node):
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
        return next((found for found in above if found is not None and is_dname(found)), None)


def is_dname(node: Node) -> bool:
    """Return whether a name has a DNAME."""
    return Type.DNAME in node.static


def _dname_step(prefix: Records, owner: bytes, above: Node, target: bytes) -> Records:
    """Return an answer with a DNAME and, unless there is no target, the CNAME that is made from it."""
    record = above.static[Type.DNAME][0]
    answer = prefix.answer + build.with_owner(record, above.key)
    if not target:
        return Records(answer, prefix.answers + 1)
    alias = build.alias(target, int.from_bytes(record[6:10], "big"))
    return Records(answer + (build.with_owner(alias, owner) if owner else alias), prefix.answers + 2)
