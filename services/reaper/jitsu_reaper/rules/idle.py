"""Who is idle, and what is done about it: the reaper's policy over all VMs.

A VM that is held (`VmStatus.hold`) is never idle. Any other is idle when it is ready, its last use (activity.py) is
`idle_timeout` ago, and no answer for it is within the TTL that it had when it was given: the TTL may have been lowered
since. It is then drained (drain.py).

Where a VM waits for room (`VmStatus.wants_room`), one that says `evict` is idle after its `evict_timeout` already: no
answer for it is in use any more. For each VM that waits one is drained at a time, of those of no higher priority: the
lowest priority first, then the one that has been idle for longest. What drains or stops on that host already counts.

An event or a look costs the same however many VMs there are. The VMs that are ready stand in a heap of the times at
which they may be idle; use only makes that later, which is noticed when a VM's turn comes. At most `MAX_DRAINS` are
drained at once on each host: of the others, the one that has been idle for longest follows when one of these is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.deadlines import Deadlines
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import RETRY_S, Action, AskDrain, CancelDrain, DrainMachine, DrainState
from jitsu_reaper.rules.evict import Evictions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jitsu_protocol.messages import Report, VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_reaper.rules.activity import Activity, Replica


MAX_DRAINS = 64
"""On one host at a time. Each costs vmd two calls, and every replica a report and an answer that is not warm; a drain
lasts some 0.1 s, so that hundreds of VMs can be stopped in a second, and vmd still answers within its deadlines."""
_LEAVING = frozenset({VmState.DRAINING, VmState.STOPPING})


@dataclass
class _Host:
    """The VMs of one host."""

    evictions: Evictions
    idle: Deadlines[str] = field(default_factory=Deadlines)
    """The VMs that are ready and do not drain, by when they may be idle."""
    drains: set[str] = field(default_factory=set)


class Policy:
    """All VMs."""

    def __init__(self, activity: Activity, drain_limit_s: float) -> None:
        self.activity = activity
        self.drain_limit_s = drain_limit_s
        self._vms: dict[str, VM] = {}
        self._states: dict[str, VmStatus] = {}
        self._drains: dict[str, DrainMachine] = {}
        self._hosts: dict[str, _Host] = {}
        self._not_before: dict[str, float] = {}
        self.blind = "no service has reported yet"
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
                new = change.new
                self.activity.configured(new.uuid, new.ttl, (*new.names, *new.aliases))
                self._place(change.new.uuid)
            elif change.old is not None:
                self._vms.pop(change.old.uuid, None)
                self._not_before.pop(change.old.uuid, None)
                self._end(change.old.uuid)
                self._place(change.old.uuid)
                self.activity.forget(change.old.uuid)

    def all_states(self, statuses: Iterable[VmStatus], now: float, host: str = "") -> None:
        """Take a snapshot of the states of all VMs of one host."""
        there = {status.uuid: status for status in statuses}
        for vm in [vm for vm, known in self._states.items() if known.host == host and vm not in there]:
            self._end(vm)
            self._leave(vm)
        for status in there.values():
            self.state(status, now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        """Take a VM's new state."""
        known = self._states.get(status.uuid)
        if gone:
            if known is None or known.host == status.host:  # else it has moved
                self._end(status.uuid)
                self._leave(status.uuid)
            return
        if known is not None and known.host != status.host:
            self._end(status.uuid)
            self._leave(status.uuid)
        before = VmState.UNKNOWN if known is None else known.state
        self._states[status.uuid] = status
        if status.idle_s is not None:
            self.activity.used(status.uuid, now - _age(status.idle_s))  # summons that no replica reports, an operator's
        if status.state is VmState.READY and before not in (VmState.READY, VmState.DRAINING):
            self.activity.used(status.uuid, now - _age(status.state_age_s))
        drain = self._drains.get(status.uuid)
        if drain is not None and drain.state is DrainState.WAITING and status.drain != drain.drain:
            self._end(status.uuid)  # a query saved it
        self._place(status.uuid)

    def report(self, report: Report, now: float, wall: float) -> None:
        """Take a replica's report."""
        self.activity.report(report, now, wall)

    def begun(self, vm: str, drain: str, now: float) -> None:
        """Note that vmd drains a VM."""
        if vm in self._drains:
            self._drains[vm].begun(drain, now)

    def ended(self, vm: str, now: float) -> None:
        """Note that a drain is over: the VM is stopped, or vmd refused."""
        self._end(vm)
        if vm in self._vms:
            self._not_before[vm] = now + RETRY_S
        self._place(vm)

    def passed(self, now: float) -> list[Action]:
        """Do what is due; call it soon after each event, when `next_deadline` has come, and every second."""
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
        for host in self._judged():
            actions += self._drain_idle(host, now)
            actions += self._evict(host, now)
        return actions

    def next_deadline(self, now: float) -> float | None:
        """Return when `passed` wants to be called."""
        due = [drain.deadline for drain in self._drains.values() if drain.state is DrainState.WAITING]
        for host in self._judged():
            if len(host.drains) >= MAX_DRAINS:
                continue  # the end of one of them is an event
            if (first := self._first_idle(host)) is not None:
                due.append(first[1])
            if (at_evict := host.evictions.next_deadline()) is not None and at_evict > now:
                due.append(at_evict)  # of those that are due already none has to go
        return min(due, default=None)

    def host_of(self, vm: str) -> str:
        """Return the host whose vmd runs a VM."""
        known = self._states.get(vm)
        return "" if known is None else known.host

    def name_of(self, vm: str) -> str:
        """Return a VM's name, or its UUID if it is not known any more."""
        known = self._states.get(vm) or self._vms.get(vm)
        return vm if known is None else known.name

    # --- where each VM stands ---

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(Evictions(self))
        return self._hosts[name]

    def _place(self, vm: str) -> None:
        """Put a VM where it belongs, by its state, its configuration and its drain."""
        known, configured = self._states.get(vm), self._vms.get(vm)
        if known is None:
            return
        host = self._host(known.host)
        if vm in self._drains or known.state in _LEAVING:
            host.evictions.leaving.add(vm)
        else:
            host.evictions.leaving.discard(vm)
        if known.wants_room and configured is not None:
            host.evictions.wait(vm, configured.priority)
        else:
            host.evictions.wait_no_longer(vm)
        if known.state is VmState.READY and not known.hold and configured is not None and vm not in self._drains:
            host.idle.set(vm, self._idle_from(vm))
            host.evictions.consider(vm)
        else:
            host.idle.discard(vm)
            host.evictions.forget(vm)

    def _leave(self, vm: str) -> None:
        """Forget the state of a VM that is gone, or that another host has now."""
        known = self._states.pop(vm, None)
        if known is not None:
            host = self._host(known.host)
            host.idle.discard(vm)
            host.evictions.forget(vm)
            host.evictions.wait_no_longer(vm)
            host.evictions.leaving.discard(vm)
        if vm not in self._vms:
            self.activity.forget(vm)  # its last states came after it was removed from the configuration

    def _begin(self, vm: str, host: _Host, *, for_room: bool = False) -> AskDrain:
        self._drains[vm] = DrainMachine(vm, self.drain_limit_s, for_room=for_room)
        self._not_before.pop(vm, None)
        host.drains.add(vm)
        host.evictions.leaving.add(vm)
        host.evictions.forget(vm)
        host.idle.discard(vm)
        return AskDrain(vm)

    def _end(self, vm: str) -> None:
        if self._drains.pop(vm, None) is not None:
            self._host(self.host_of(vm)).drains.discard(vm)

    # --- who goes ---

    def _judged(self) -> list[_Host]:
        """Return the hosts of which enough is heard to stop a VM (G8)."""
        if self.blind or self._listens or not self.activity.informed:
            return []
        return [host for name, host in self._hosts.items() if name not in self.unheard]

    def _drain_idle(self, host: _Host, now: float) -> list[Action]:
        actions: list[Action] = []
        while len(host.drains) < MAX_DRAINS and (first := self._first_idle(host)) is not None and first[1] <= now:
            actions.append(self._begin(first[0], host))
        return actions

    def _first_idle(self, host: _Host) -> tuple[str, float] | None:
        """Return who is idle first on a host, and from when on."""
        while (found := host.idle.earliest()) is not None and (at := self._idle_from(found[0])) > found[1]:
            host.idle.set(found[0], at)  # it has been used since
        return found

    def _evict(self, host: _Host, now: float) -> list[Action]:
        """Drain what gives way to those that wait for room on a host."""
        free = max(0, MAX_DRAINS - len(host.drains))
        return [self._begin(vm, host, for_room=True) for vm in islice(host.evictions.chosen(now), free)]

    def _is_seen(self, vm: str) -> bool:
        """Say whether enough is heard to stop a VM (G8)."""
        known = self._states.get(vm)
        return not (self.blind or self._listens) and (known is None or known.host not in self.unheard)

    # --- when ---

    def _idle_at(self, vm: str) -> float:
        if vm not in self._vms:
            return float("inf")
        return self._unused_since(vm, self._vms[vm].idle_timeout)

    def _unused_since(self, vm: str, timeout: float) -> float:
        """Return when a VM's last use is so long ago, and no answer for it is within the TTL that it had (G3)."""
        host = self.host_of(vm)
        return max(self.activity.last_use(vm, host) + timeout, self.activity.valid_until(vm, host))

    def _idle_from(self, vm: str) -> float:
        """Return when a VM may be drained; later, if a drain of it came to nothing just now."""
        return max(self._idle_at(vm), self._not_before.get(vm, 0.0))

    def evictable_at(self, vm: str) -> float | None:
        """Return when a VM may be drained for another; None if that is never."""
        own, known = self._vms.get(vm), self._states.get(vm)
        if own is None or not own.evict or known is None or known.state is not VmState.READY or vm in self._drains:
            return None
        if known.hold:
            return None
        return max(self._unused_since(vm, own.evict_timeout), self._not_before.get(vm, 0.0))

    def rank(self, vm: str) -> tuple[int, float]:
        """Return a VM's priority, and when it was used last."""
        return self._vms[vm].priority, self.activity.last_use(vm, self.host_of(vm))

    def _gives_way_at(self, vm: str) -> float:
        """Return when a VM that drains for another was idle enough for that; never, if none waits any more."""
        own = self._vms.get(vm)
        if own is None or not self._host(self.host_of(vm)).evictions.is_wanted(own.priority):
            return float("inf")
        return self._unused_since(vm, own.evict_timeout)

    def _drained_at(self, vm: str, drain: DrainMachine) -> float:
        idle_at = self._idle_at(vm)
        return min(idle_at, self._gives_way_at(vm)) if drain.for_room else idle_at


def _age(seconds: float) -> float:
    """Return how long ago something was; what is not a duration counts as just now (G8)."""
    return seconds if 0 <= seconds < float("inf") else 0.0
