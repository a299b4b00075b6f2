"""What is known of all VMs, from the feeds of the store and of each vmd; and which events follow from what arrives.

A VM is shown as `jitsu status --json` prints it, with a few things more. Its ages (`uptime_s`, `idle_s`) are of the
moment at which it is shown, so they are computed then, from when its status arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM, VM_ROOT, InvalidVm, from_tree
from jitsu_protocol.rows import below, row_of, row_of_unknown
from jitsu_protocol.vm_names import VmNames
from jitsu_web.rules.events import DrainEvent, GoneEvent, VmEvent
from jitsu_web.rules.history import DayHistory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.vm_names import NamedVm
    from jitsu_web.rules.events import WebEvent

UP = frozenset({VmState.STARTING, VmState.BOOTING, VmState.READY, VmState.DRAINING, VmState.STOPPING})


class Board:
    """All VMs."""

    def __init__(self, now: float, wall: float) -> None:
        """`now` is the clock of this process, `wall` is Unix time, both in seconds."""
        self._since = wall - now
        self._statuses: dict[str, tuple[VmStatus, float]] = {}
        """With the time of their arrival."""
        self._leaves: dict[str, dict[str, str]] = {}
        self._statistics: dict[str, dict[str, str]] = {}
        self._hosts: dict[str, bool] = {}
        """Whether the vmd of each host was heard at all."""
        self._built: dict[str, VM | None] = {}
        self._names: VmNames | None = None
        self._history = DayHistory()
        self.commit = ""
        """The latest commit of master that has arrived."""

    # --- what arrives ---

    def configured(self, leaves: Mapping[str, str], now: float) -> list[WebEvent]:
        """Replace the leaves below jitsu/vm (path -> value)."""
        before, self._leaves = self._leaves, below(leaves, VM_ROOT)
        self._built.clear()
        return self._reconfigured({*before, *self._leaves}, before, now)

    def committed(self, changes: Iterable[tuple[str, str | None]], now: float) -> list[WebEvent]:
        """Apply the changes of a commit: path and new value, None where it is removed."""
        before: dict[str, dict[str, str]] = {}
        for path, value in changes:
            uuid, _, leaf = path.removeprefix(VM_ROOT + "/").partition("/")
            if not path.startswith(VM_ROOT + "/") or not leaf:
                continue
            if uuid not in before:
                before[uuid] = dict(self._leaves.get(uuid, {}))
                self._built.pop(uuid, None)
            if value is not None:
                self._leaves.setdefault(uuid, {})[leaf] = value
            elif uuid in self._leaves:
                self._leaves[uuid].pop(leaf, None)
        for uuid in before:
            if not self._leaves.get(uuid, True):
                del self._leaves[uuid]
        return self._reconfigured(before, before, now)

    def listed(self, statuses: Sequence[VmStatus], host: str, now: float) -> list[WebEvent]:
        """Note all VMs of a host."""
        self._hosts[host] = True
        listed = {each.uuid for each in statuses}
        events: list[WebEvent] = []
        for uuid in [uuid for uuid, (each, _) in self._statuses.items() if each.host == host and uuid not in listed]:
            events += self._lost(uuid, now)
        for each in statuses:
            events += self.changed(each, gone=False, now=now)
        return events

    def changed(self, status: VmStatus, *, gone: bool, now: float) -> list[WebEvent]:
        """Note the new state of one VM; `gone` if its vmd no longer knows it."""
        if gone:
            return self._lost(status.uuid, now)
        before = self._statuses.get(status.uuid)
        self._statuses[status.uuid] = (status, now)
        state_before = before[0].state if before else None
        if state_before is None or (state_before in UP) != (status.state in UP):
            self._history.up_or_down(status.uuid, status.state in UP, now + self._since)
        if before is None:
            self._names = None
        event = VmEvent(self.vm(status.uuid, now), "" if state_before is None else state_before.value)
        return [event, *_drain_events(before[0] if before else None, status)]

    def counted(self, leaves: Mapping[str, str], now: float) -> list[WebEvent]:
        """Replace the statistics (path -> value), and return an event for each VM that was used in the meantime."""
        before, self._statistics = self._statistics, below(leaves, "jitsu/stats")
        events: list[WebEvent] = []
        for uuid, own in self._statistics.items():
            if own != before.get(uuid) and self.is_known(uuid):
                queries = self._queries(own)
                self._history.counted(uuid, queries, now + self._since, is_first=uuid not in before)
                events.append(VmEvent(self.vm(uuid, now), self.state(uuid)))
        return events

    # --- what is shown ---

    def by_name(self) -> list[tuple[str, str]]:
        """Return the name and the UUID of each VM, in that order."""
        return sorted((self._name(uuid), uuid) for uuid in {*self._leaves, *self._statuses})

    def is_known(self, uuid: str) -> bool:
        """Return whether there is such a VM."""
        return uuid in self._leaves or uuid in self._statuses

    def find(self, word: str) -> NamedVm:
        """Return the VM with a name, a UUID or a DNS name; raises NotFound, or BadRequest if several have that name."""
        if self._names is None:
            leaves = {f"{VM_ROOT}/{uuid}/{leaf}": value for uuid, leaf, value in self._every_leaf()}
            known = VmNames.in_leaves(leaves).vms
            others = [status for uuid, (status, _) in self._statuses.items() if uuid not in self._leaves]
            self._names = VmNames([*known, *VmNames.of_statuses(others).vms])
        return self._names.find(word)

    def status(self, uuid: str) -> VmStatus | None:
        """Return what the vmd of a VM has reported last."""
        return self._statuses[uuid][0] if uuid in self._statuses else None

    def state(self, uuid: str) -> str:
        """Return the state of a VM, "" if no vmd knows it."""
        status = self.status(uuid)
        return "" if status is None else status.state.value

    def host(self, uuid: str) -> str:
        """Return the host of a VM, "" for that of the first vmd."""
        own = self._leaves.get(uuid, {})
        status = self.status(uuid)
        return status.host if status is not None else own.get("host", own.get("config/host/0", ""))

    def leaves(self, uuid: str) -> Mapping[str, str]:
        """Return the leaves of a VM, by the path below its own."""
        return self._leaves.get(uuid, {})

    def model(self, uuid: str) -> VM | None:
        """Return a VM as it is configured; None if that cannot be used."""
        if uuid not in self._built:
            try:
                self._built[uuid] = from_tree(uuid, self._leaves.get(uuid, {}))
            except InvalidVm:
                self._built[uuid] = None
        return self._built[uuid]

    def vm(self, uuid: str, now: float) -> dict[str, Any]:
        """Return everything that is shown of a VM."""
        wall = now + self._since
        own, statistics = self._leaves.get(uuid, {}), self._statistics.get(uuid, {})
        known = self._statuses.get(uuid)
        if known is None:
            silent = [host for host, heard in self._hosts.items() if not heard]
            row = row_of_unknown(uuid, own, statistics, wall, silent)
            row["state_age_s"] = None
        else:
            status, at = known
            passed = max(0.0, now - at)
            row = row_of(status, own, statistics, wall)
            row["state_age_s"] = status.state_age_s + passed
            if row["uptime_s"] is not None:
                row["uptime_s"] += passed
            if row["retry_after_s"] is not None:
                row["retry_after_s"] = max(0.0, row["retry_after_s"] - passed)
        row["idle"] = self._idle(uuid, row, wall)
        row["series"] = self._history.series(uuid, wall)
        row["memory_saved_bytes_s"] = self._memory_saved(uuid, wall)
        return row

    def forget_history(self) -> None:
        """Drop what was kept of VMs that are gone."""
        self._history.keep_only(self.is_known)

    # --- below ---

    def _reconfigured(
        self, uuids: Iterable[str], before: Mapping[str, Mapping[str, str]], now: float
    ) -> list[WebEvent]:
        self._names = None
        events: list[WebEvent] = []
        for uuid in uuids:
            if self._leaves.get(uuid) == before.get(uuid):
                continue
            if self.is_known(uuid):
                events.append(VmEvent(self.vm(uuid, now), self.state(uuid)))
            else:
                events.append(GoneEvent(uuid, before.get(uuid, {}).get("config/name/0", uuid)))
        return events

    def _lost(self, uuid: str, now: float) -> list[WebEvent]:
        found = self._statuses.pop(uuid, None)
        if found is None:
            return []
        self._names = None
        self._history.up_or_down(uuid, False, now + self._since)
        if uuid in self._leaves:
            return [VmEvent(self.vm(uuid, now), found[0].state.value)]
        return [GoneEvent(uuid, found[0].name)]

    def _name(self, uuid: str) -> str:
        status = self.status(uuid)
        return status.name if status is not None else self._leaves.get(uuid, {}).get("config/name/0", uuid)

    def _every_leaf(self) -> Iterator[tuple[str, str, str]]:
        for uuid, own in self._leaves.items():
            for leaf, value in own.items():
                yield uuid, leaf, value

    @staticmethod
    def _queries(own: Mapping[str, str]) -> int:
        total = 0
        for path, value in own.items():
            if path.startswith("dns/") and path.endswith("/total_requests") and value.isdecimal():
                total += int(value[:18])
        return total

    def _idle(self, uuid: str, row: Mapping[str, Any], wall: float) -> dict[str, Any] | None:
        """Return when a VM stops unless it is used, None if it does not run."""
        if row["state"] not in (VmState.READY, VmState.DRAINING):
            return None
        if row["kept"]:
            return {"stops_at": None, "reason": row["kept"]}
        if row["hold"]:
            return {"stops_at": None, "reason": "it is held (jitsu hold)"}
        vm = self.model(uuid)
        if vm is None:
            return {"stops_at": None, "reason": "its configuration cannot be used"}
        unused = min(each for each in (row["idle_s"], row["uptime_s"], row["state_age_s"]) if each is not None)
        return {"stops_at": wall - unused + vm.idle_timeout, "reason": ""}

    def _memory_saved(self, uuid: str, wall: float) -> float:
        vm = self.model(uuid)
        if vm is None:
            return 0.0
        return float(vm.value("memory")) * 1024 * self._history.down_s(uuid, wall)


def _drain_events(before: VmStatus | None, status: VmStatus) -> Iterator[WebEvent]:
    was_draining = before is not None and before.state is VmState.DRAINING
    is_draining = status.state is VmState.DRAINING
    if is_draining and not was_draining:
        yield DrainEvent(status.uuid, status.name, "begun")
    elif was_draining and status.state is VmState.READY:
        yield DrainEvent(status.uuid, status.name, "prevented", "it was used after all")
    elif was_draining and not is_draining:
        yield DrainEvent(status.uuid, status.name, "stopped")
