"""What the zones contain: takes what the store says of the VMs into the table, and keeps everything else in step.

A change invalidates the warm answers of its VMs, moves on the queries that wait for them, and is something to notify
secondaries of. A VM of which no records can be made is left out, with the reason in `faults`, and costs nobody else
an answer.

A replica that starts does not make all VMs at once (names.py). So a question comes here first when not all are made:
`look_for` makes the VMs that its answer depends on, and returns whether a VM that is not known yet may still have the
name. Such a question is held (unknown.py). What an earlier run has left is trusted once the store has been silent for
TRUST_S.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules import cold, notify
from jitsu_dns.rules.events import NamesRemembered, NamesTold, NodesChanged, Reply, TurnCame, VmsChanged
from jitsu_dns.rules.lookup import MAX_ALIASES
from jitsu_dns.rules.names import MAX_AT_ONCE, Known, Names
from jitsu_dns.rules.notify import ZonesChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_dns.rules.cold import ColdQueries
    from jitsu_dns.rules.lookup import Node
    from jitsu_dns.rules.notify import Notifier
    from jitsu_dns.rules.table import Table
    from jitsu_dns.rules.warm import WarmAnswers
    from jitsu_protocol.model.inventory import VmChanged

TRUST_S = 0.3
"""Names of an earlier run are answered for without the store's word when it has been silent for this long."""

Action = cold.Action | notify.Action | Reply
Event = VmsChanged | NamesRemembered | NamesTold | TurnCame


class Contents:
    """The names of one replica, and what depends on them."""

    def __init__(
        self, table: Table, names: Names, warm: WarmAnswers, cold: ColdQueries, notifier: Notifier | None
    ) -> None:
        self.table, self.names = table, names
        self.faults: dict[str, str] = {}
        """VM -> why it is left out."""
        self.trusts_at: float | None = None
        """When names that are only remembered will be trusted; None if they are already, or if there are none."""
        self._warm, self._cold, self._notifier = warm, cold, notifier
        self._serial = 0
        self._actions: list[Action] = []

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return what is to be done because of an event."""
        match event:
            case VmsChanged(changes, serial):
                self._configure(changes, serial, now)
            case NamesRemembered(leaves, serial):
                self.names.remember(leaves)
                self._serial, self.trusts_at = serial, now + TRUST_S
            case NamesTold(serial):
                self._serial = serial
                if self.names.left <= MAX_AT_ONCE:
                    self._configure(self.names.make_some(), serial, now)
                if self.names.known is Known.TOLD:
                    self.trusts_at = None
            case TurnCame() if self.names.left:
                self._configure(self.names.make_some(), self._serial, now)
        return self._flush()

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # --- changes ---

    def _configure(self, changes: Sequence[VmChanged], serial: int, now: float) -> None:
        """Update the table with VMs that came, went or changed, and give the zones their serial."""
        table = self.table
        depended = table.answers_depend_on_others
        table.is_reshaped = False
        left: set[Node] = set()
        for change in changes:
            for vm in (change.old, change.new):
                if vm is not None:
                    self._warm.invalidate(table.held_by(vm.uuid))
            if change.old is not None:
                left.update(held.node for held in table.held_by(change.old.uuid))
            self._replace(change)
            if change.new is not None:
                self._warm.invalidate(table.held_by(change.new.uuid))
        if not changes and serial == table.serial:
            return
        table.publish(serial)
        if self._notifier is not None:
            self._actions += self._notifier.handle(ZonesChanged(table.changed_zones()), now)
        if table.is_reshaped and (depended or table.answers_depend_on_others):
            self._warm.clear()  # a wildcard or an alias may stand for other names now
        self._actions += self._cold.handle(NodesChanged(frozenset(left)), now)

    def _replace(self, change: VmChanged) -> None:
        for vm in (change.old, change.new):
            if vm is not None:
                self.faults.pop(vm.uuid, None)
        try:
            self.table.replace(change.old, change.new)
        except ValueError as error:
            self.table.replace(change.old, None)
            if change.new is not None:
                self.faults[change.new.uuid] = f"{change.new.name}: {error}"

    # --- questions ---

    def look_for(self, key: bytes, now: float) -> tuple[bool, Sequence[Action]]:
        """Make the VMs that a name's answer depends on.

        Return whether a VM that nobody knows yet may have the name, and what is to be done because of those made.
        """
        if self.trusts_at is not None and now < self.trusts_at:
            return True, ()
        for _ in range(MAX_ALIASES):
            if made := self.names.make(self.names.wanted(key)):
                self._configure(made, self._serial, now)
            target = self.table.alias_of(key)
            if target is None:
                break
            key = target
        is_apex = self.names.known is Known.TOLD and key in self.table.zones
        is_unknown = not is_apex and self.names.may_change(key, self.table.stands_for(key))
        return is_unknown, self._flush()

    # --- clock ---

    def deadline(self) -> float | None:
        """Return when names that are only remembered will be trusted."""
        return self.trusts_at

    def tick(self, now: float) -> bool:
        """Look at the clock; return whether names that were only remembered are trusted from now on."""
        if self.trusts_at is None or now < self.trusts_at:
            return False
        self.trusts_at = None
        return True
