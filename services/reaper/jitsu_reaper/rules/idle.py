"""Who is idle, and what is done about it: the reaper's policy over all VMs.

A VM is idle when it is ready and its last use (activity.py) is `idle_timeout` ago. It is then drained (drain.py).

Where a VM waits for room (`VmStatus.wants_room`), one that says `evict` is idle after its `evict_timeout` already: no
answer for it is in use any more. For each VM that waits one is drained at a time, of those of no higher priority: the
lowest priority first, then the one that has been idle for longest. What drains or stops on that host already counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.states import VmState
from jitsu_reaper.rules.drain import RETRY_S, Action, AskDrain, CancelDrain, DrainMachine, DrainState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jitsu_protocol.inventory import VmChanged
    from jitsu_protocol.messages import Report, VmStatus
    from jitsu_protocol.vm import VM
    from jitsu_reaper.rules.activity import Activity, Replica


_LEAVING = frozenset({VmState.DRAINING, VmState.STOPPING})


class Policy:
    """All VMs."""

    def __init__(self, activity: Activity, drain_limit_s: float) -> None:
        self.activity = activity
        self.drain_limit_s = drain_limit_s
        self._vms: dict[str, VM] = {}
        self._states: dict[str, VmStatus] = {}
        self._drains: dict[str, DrainMachine] = {}
        self._wanting: dict[str, str] = {}
        """VMs that wait for room, and their hosts."""
        self._not_before: dict[str, float] = {}
        self.blind = "nothing has been heard yet"
        """Why nothing may be stopped now, or nothing."""
        self.unheard: Mapping[str, str] = {}
        """Hosts of which nothing may be stopped now, and why."""
        self.gone: dict[str, Replica] = {}
        """Replicas whose lease ran out, for the shell to take."""
        self._listens = False

    def configure(self, changes: Sequence[VmChanged]) -> None:
        """Take VMs that came, went or are configured otherwise."""
        for change in changes:
            if change.new is not None:
                self._vms[change.new.uuid] = change.new
            elif change.old is not None:
                self._vms.pop(change.old.uuid, None)
                self._drains.pop(change.old.uuid, None)
                self._not_before.pop(change.old.uuid, None)
                self.activity.forget(change.old.uuid)

    def all_states(self, statuses: Iterable[VmStatus], now: float, host: str = "") -> None:
        """Take a snapshot of the states of all VMs of one host."""
        self._states = {vm: known for vm, known in self._states.items() if known.host != host}
        self._wanting = {vm: where for vm, where in self._wanting.items() if where != host}
        for status in statuses:
            self.state(status, now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        """Take a VM's new state."""
        known = self._states.get(status.uuid)
        if gone:
            if known is None or known.host == status.host:  # else it has moved
                self._states.pop(status.uuid, None)
                self._drains.pop(status.uuid, None)
                self._wanting.pop(status.uuid, None)
            return
        if status.wants_room:
            self._wanting[status.uuid] = status.host
        else:
            self._wanting.pop(status.uuid, None)
        before = VmState.UNKNOWN if known is None else known.state
        self._states[status.uuid] = status
        if status.idle_s is not None:
            self.activity.used(status.uuid, now - status.idle_s)  # summons that no replica reports, an operator's
        if status.state is VmState.READY and before not in (VmState.READY, VmState.DRAINING):
            self.activity.used(status.uuid, now - status.state_age_s)
        drain = self._drains.get(status.uuid)
        if drain is not None and drain.state is DrainState.WAITING and status.drain != drain.drain:
            del self._drains[status.uuid]  # a query saved it

    def report(self, report: Report, now: float, wall: float) -> None:
        """Take a replica's report."""
        self.activity.report(report, now, wall)

    def begun(self, vm: str, drain: str, now: float) -> None:
        """Note that vmd drains a VM."""
        if vm in self._drains:
            self._drains[vm].begun(drain, now)

    def ended(self, vm: str, now: float) -> None:
        """Note that a drain is over: the VM is stopped, or vmd refused."""
        self._drains.pop(vm, None)
        self._not_before[vm] = now + RETRY_S

    def passed(self, now: float) -> list[Action]:
        """Look at everything; call it after each event, when `next_deadline` has come, and every second."""
        self.gone |= self.activity.passed(now)
        self._listens = self.activity.listens(now)
        actions: list[Action] = []
        for vm, drain in list(self._drains.items()):
            action = drain.look(
                idle=self._drained_at(vm, drain) <= now and self._is_seen(vm),
                honoured=self.activity.all_honour(drain.drain, self.host_of(vm)),
                now=now,
            )
            if action is not None:
                actions.append(action)
            if isinstance(action, CancelDrain):
                self.ended(vm, now)
        for vm in self._vms:
            if self._may_drain(vm) and max(self._idle_at(vm), self._not_before.get(vm, now)) <= now:
                self._drains[vm] = DrainMachine(vm, self.drain_limit_s)
                actions.append(AskDrain(vm))
        for host in sorted(set(self._wanting.values())):
            actions += self._evict(host, now)
        return actions

    def _evict(self, host: str, now: float) -> list[Action]:
        """Drain what gives way to those that wait for room on a host."""
        there = [vm for vm, known in self._states.items() if known.host == host]
        leaving = sum(vm in self._drains or self._states[vm].state in _LEAVING for vm in there)
        priorities = sorted((self._vms[vm].priority for vm in self._wanting_on(host)), reverse=True)
        due = sorted(
            (self._vms[vm].priority, self.activity.last_use(vm, host), vm)
            for vm in there
            if self._may_evict(vm) and self._evictable_at(vm, now) <= now
        )
        actions: list[Action] = []
        for wanted, (priority, _, vm) in zip(priorities[leaving:], due, strict=False):
            if priority <= wanted:
                self._drains[vm] = DrainMachine(vm, self.drain_limit_s, for_room=True)
                actions.append(AskDrain(vm))
        return actions

    def _wanting_on(self, host: str) -> list[str]:
        return [vm for vm, where in self._wanting.items() if where == host and vm in self._vms]

    def _evictable_at(self, vm: str, now: float) -> float:
        """Return when a VM may be drained for another."""
        used = self.activity.last_use(vm, self.host_of(vm))
        return max(used + self._vms[vm].evict_timeout, self._not_before.get(vm, now))

    def _gives_way_at(self, vm: str) -> float:
        """Return when a VM that drains for another was idle enough for that; never, if none waits any more."""
        if vm not in self._vms:
            return float("inf")
        own = self._vms[vm]
        wanted = any(self._vms[each].priority >= own.priority for each in self._wanting_on(self.host_of(vm)))
        return self.activity.last_use(vm, self.host_of(vm)) + own.evict_timeout if wanted else float("inf")

    def _drained_at(self, vm: str, drain: DrainMachine) -> float:
        idle_at = self._idle_at(vm)
        return min(idle_at, self._gives_way_at(vm)) if drain.for_room else idle_at

    def next_deadline(self, now: float) -> float | None:
        """Return when `passed` wants to be called."""
        due = [drain.deadline for drain in self._drains.values() if drain.state is DrainState.WAITING]
        due += [max(self._idle_at(vm), self._not_before.get(vm, now)) for vm in self._vms if self._may_drain(vm)]
        hosts = set(self._wanting.values())
        evictable = (
            self._evictable_at(vm, now)
            for vm, known in self._states.items()
            if known.host in hosts and self._may_evict(vm)
        )
        due += [at for at in evictable if at > now]  # of those that are due already none has to go
        return min(due, default=None)

    def _may_drain(self, vm: str) -> bool:
        known = self._states.get(vm)
        ready = known is not None and known.state is VmState.READY
        return ready and vm not in self._drains and self._is_seen(vm) and self.activity.informed

    def _may_evict(self, vm: str) -> bool:
        return vm in self._vms and self._vms[vm].evict and self._may_drain(vm)

    def _is_seen(self, vm: str) -> bool:
        """Say whether enough is heard to stop a VM (G8)."""
        known = self._states.get(vm)
        return not (self.blind or self._listens) and (known is None or known.host not in self.unheard)

    def host_of(self, vm: str) -> str:
        """Return the host whose vmd runs a VM."""
        known = self._states.get(vm)
        return "" if known is None else known.host

    def _idle_at(self, vm: str) -> float:
        if vm not in self._vms:
            return float("inf")
        return self.activity.last_use(vm, self.host_of(vm)) + self._vms[vm].idle_timeout
