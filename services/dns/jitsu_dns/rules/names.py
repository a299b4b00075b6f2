"""What the store says of all VMs, and which of them the table has already.

With 10,000 VMs it takes seconds to make them all, but a replica should answer at once. So the leaves of all VMs are
kept as they are, with an index of their names. A VM is made when somebody asks for it; the others are made a few at a
time.

    what is known  where it comes from               what is answered
    NOTHING        -                                 nothing: questions are held (rules/unknown.py)
    REMEMBERED     the file of an earlier run, not   what is found; questions about other names are held
                   confirmed by the store
    TOLD           the store, or the file if the     everything, once the VMs are made that the answer may depend on
                   store confirms it

A store that has no VM at all is one that nobody has configured yet. That counts as NOTHING until a change comes.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING

from jitsu_dns.rules.message import parents, to_wire
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.vm import VM_ROOT, InvalidVm, from_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jitsu_protocol.model.vm import VM

MAX_AT_ONCE = 20
"""VMs that are made in one go, about 5 ms of work; a change of more VMs is spread over several turns."""
_WILDCARD = b"\x01*"
_ARPA = b"\x04arpa\x00"

Leaves = dict[str, str]


class Known(Enum):
    """How much is known about the names of all VMs."""

    NOTHING = auto()
    REMEMBERED = auto()
    TOLD = auto()


class Names:
    """All VMs, by uuid: their leaves, and the VM that was made of them."""

    def __init__(self) -> None:
        self.known = Known.NOTHING
        self.leaves: dict[str, Leaves] = {}
        self.vms: dict[str, VM] = {}
        self.faults: dict[str, str] = {}
        """VM -> why it cannot be used."""
        self._taken: dict[str, Leaves] = {}
        self._open: dict[str, list[bytes]] = {}
        """VMs that have not been made yet, in order, with the names that they have or had."""
        self._by_name: dict[bytes, set[str]] = {}
        """Of those."""
        self._above: Counter[bytes] = Counter()
        """The names above those."""

    @property
    def is_complete(self) -> bool:
        """Whether the store's VMs are known, and all made."""
        return self.known is Known.TOLD and not self._open

    # --- what the store says ---

    def remember(self, leaves: Mapping[str, Leaves]) -> None:
        """Begin with what an earlier run knew."""
        self.known = Known.REMEMBERED
        self.leaves = dict(leaves)
        for uuid in self.leaves:
            self._to_be_made(uuid)

    def confirm(self) -> None:
        """Note that the store confirms what is known."""
        self.known = Known.TOLD if self.leaves else Known.NOTHING

    def begin_reset(self) -> None:
        """Begin to read the whole tree in pieces; until `end_reset`, what was known before still counts."""
        self._taken = {}

    def take(self, leaves: Mapping[str, str]) -> None:
        """Add a piece of the tree (path -> value); a VM is never split between two pieces."""
        for path, value in leaves.items():
            uuid, leaf = _leaf_of_vm(path)
            if leaf:
                self._taken.setdefault(uuid, {})[leaf] = value

    def end_reset(self) -> None:
        """Note that the whole tree has been added."""
        before, self.leaves, self._taken = self.leaves, self._taken, {}
        for uuid in {*before, *self.leaves}:
            if before.get(uuid) != self.leaves.get(uuid):
                self._to_be_made(uuid)
        self.confirm()

    def apply(self, changes: Iterable[tuple[str, str | None]]) -> None:
        """Apply the changes of a commit: (path, new value or None)."""
        for uuid in dict.fromkeys(self._put(path, value) for path, value in changes):
            if uuid:
                self._to_be_made(uuid)
                if self.known is Known.NOTHING:
                    self.known = Known.TOLD

    def _put(self, path: str, value: str | None) -> str:
        uuid, leaf = _leaf_of_vm(path)
        if not leaf:
            return ""
        own = self.leaves.get(uuid, {})
        if value is not None:
            own = self.leaves[uuid] = own | {leaf: value}  # the dict itself may be on its way to the disk
        elif leaf in own:
            own = self.leaves[uuid] = {each: text for each, text in own.items() if each != leaf}
        if not own:
            self.leaves.pop(uuid, None)
        return uuid

    # --- the VMs that are made from it ---

    def wanted(self, key: bytes) -> list[str]:
        """Return the VMs that must be made before a question about a name can be answered."""
        if not self._open:
            return []
        found = set(self._by_name.get(key, ()))
        for above in parents(key)[1:]:
            found |= self._by_name.get(_WILDCARD + above, set())
        return sorted(found)

    def may_change(self, key: bytes, node: bytes | None) -> bool:
        """Return whether the answer for a name may be different once all VMs are made.

        `node` is the name in the table that the answer comes from, None if there is none. The VMs that are `wanted`
        must have been made.
        """
        if self.is_complete or node == key:
            return False
        if self.known is not Known.TOLD or key in self._above:
            return True
        if node is None:
            return key.endswith(_ARPA)
        base = len(node) - len(_WILDCARD)  # what is below the wildcard's parent, and exists, ends its reach
        between = (above for above in parents(key) if len(above) > base)
        return any(above in self._above or above in self._by_name for above in between)

    def make(self, uuids: Iterable[str]) -> list[VmChanged]:
        """Make these VMs from what is known about them; return what that changes."""
        changed = []
        for uuid in uuids:
            self._is_made(uuid)
            old = self.vms.pop(uuid, None)
            new = self._made(uuid)
            if new is not None:
                self.vms[uuid] = new
            if new != old:
                changed.append(VmChanged(old, new))
        return changed

    def make_some(self) -> list[VmChanged]:
        """Make the next few VMs."""
        uuids = [uuid for uuid, _ in zip(self._open, range(MAX_AT_ONCE), strict=False)]
        return self.make(uuids)

    @property
    def left(self) -> int:
        """How many VMs have not been made yet."""
        return len(self._open)

    def _made(self, uuid: str) -> VM | None:
        self.faults.pop(uuid, None)
        if uuid not in self.leaves:
            return None
        try:
            return from_tree(uuid, self.leaves[uuid])
        except InvalidVm as error:
            self.faults[uuid] = f"{uuid}: {error}"
            return None

    def _to_be_made(self, uuid: str) -> None:
        self._is_made(uuid)
        names = {*_names(self.leaves.get(uuid, {}))}
        if (old := self.vms.get(uuid)) is not None:
            names.update(map(to_wire, (*old.names, *old.aliases)))
        self._open[uuid] = list(names)
        for name in names:
            self._by_name.setdefault(name, set()).add(uuid)
            self._above.update(parents(name)[1:])

    def _is_made(self, uuid: str) -> None:
        for name in self._open.pop(uuid, ()):
            owners = self._by_name[name]
            owners.discard(uuid)
            if not owners:
                del self._by_name[name]
            for above in parents(name)[1:]:
                self._above[above] -= 1
                if not self._above[above]:
                    del self._above[above]


def _names(leaves: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the names and aliases that a VM with these leaves has. There may be too many, but never too few."""
    for path, value in leaves.items():
        name = ""
        if path.startswith("dns/"):
            name = path.split("/")[1]
        elif path.startswith(("config/dns/", "config/alias/")):
            name = value
        if name:
            yield to_wire(name.lower().rstrip(".")[:255])


def _leaf_of_vm(path: str) -> tuple[str, str]:
    """Return a VM's uuid and the path below it; two empty texts if the path is not a VM's."""
    rest = path.removeprefix(VM_ROOT + "/")
    uuid, _, leaf = rest.partition("/")
    return (uuid, leaf) if rest != path and leaf else ("", "")
