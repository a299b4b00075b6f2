"""Which VMs are idle, and what is done about it: the policy over all VMs.

A VM that is ready and idle (vms.py) is drained (drain.py). Where a VM waits for room (`VmStatus.wants_room`), one that
has `evict = true` is drained after its `evict_timeout` already: no answer for it is in use by then. One is drained at a
time for each VM that waits, among those of no higher priority: the lowest priority first, then the one that has been
idle for longest. What drains or stops on that host already counts.

An event or a tick costs the same however many VMs there are. The VMs that are ready stand in a heap of the times at
which they may be idle. Use only makes that later, which is noticed when a VM's turn comes. At most MAX_DRAINS are
drained at once on each host; when one of these is over, the VM that has been idle for longest follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.deadlines import Deadlines
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import (
    RETRY_S,
    Acknowledged,
    AskDrain,
    DrainAction,
    DrainBegun,
    DrainEnded,
    DrainMachine,
    DrainState,
    Used,
)
from jitsu_reaper.rules.events import StateChanged, StatesListed, VmsConfigured
from jitsu_reaper.rules.evict import Evictions
from jitsu_reaper.rules.reporters import Obstacles
from jitsu_reaper.rules.vms import NEVER, KnownVms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_reaper.rules.events import PolicyEvent
    from jitsu_reaper.rules.usage import Usage


MAX_DRAINS = 64
"""On one host at a time. Each costs vmd two calls, and every replica a report and an answer that is not warm. A drain
lasts some 0.1 s, so that hundreds of VMs can be stopped in a second, and vmd still replies within its deadlines."""
_LEAVING = frozenset({VmState.DRAINING, VmState.STOPPING})


@dataclass
class _Host:
    """The VMs of one host."""

    evictions: Evictions
    idle: Deadlines[str] = field(default_factory=Deadlines)
    """The VMs that are ready and do not drain, by when they may be idle."""
    drains: set[str] = field(default_factory=set)


class Policy:
    """Decides for all VMs: a machine without states of its own."""

    def __init__(self, usage: Usage, drain_limit_s: float) -> None:
        self.usage = usage
        self.drain_limit_s = drain_limit_s
        self.vms = KnownVms(usage)
        self.obstacles = Obstacles("no service has reported yet")
        """Why nothing may be stopped (G8). Whoever calls `tick` sets it before."""
        self._drains: dict[str, DrainMachine] = {}
        self._hosts: dict[str, _Host] = {}
        self._ticked_at = usage.floor

    def handle(self, event: PolicyEvent, now: float) -> list[DrainAction]:
        """Note what has happened; what follows from it is decided by the next `tick`, which is to come soon."""
        match event:
            case VmsConfigured(changes):
                self._configure(changes, now)
            case StatesListed(statuses, host, _):
                self._list(statuses, host, now)
            case StateChanged(status, gone, _):
                self._change(status, now, gone=gone)
            case DrainBegun(vm):
                if vm in self._drains:
                    self._drains[vm].handle(event, now)
            case DrainEnded(vm):
                self._end(vm, now)
                self._retry_later(vm, now)
        return []

    def deadline(self) -> float | None:
        """Return when a VM may be drained, or a drain has taken too long."""
        due = [at for drain in self._drains.values() if (at := drain.deadline()) is not None]
        for host in self._judged():
            if len(host.drains) >= MAX_DRAINS:
                continue  # the end of one of them is an event
            if (first := self._first_idle(host)) is not None:
                due.append(first[1])
            if (at_evict := host.evictions.deadline()) is not None and at_evict > self._ticked_at:
                due.append(at_evict)  # of those that were due already none had to go
        return min(due, default=None)

    def tick(self, now: float) -> list[DrainAction]:
        """Decide who is drained and stopped, given what is known now."""
        self._ticked_at = now
        actions: list[DrainAction] = []
        for vm, drain in list(self._drains.items()):
            actions += self._follow(vm, drain, now)
            if drain.state is DrainState.OVER:
                self._end(vm, now)
                self._retry_later(vm, now)
        for host in self._judged():
            actions += self._drain_idle(host, now)
            actions += self._evict(host, now)
        return actions

    # --- where each VM stands ---

    def _configure(self, changes: Sequence[VmChanged], now: float) -> None:
        for change in changes:
            if change.new is not None:
                new = change.new
                self.vms.configured[new.uuid] = new
                self.usage.configured(new.uuid, new.ttl, (*new.names, *new.aliases), now)
                self._place(new.uuid)
            elif change.old is not None:
                uuid = change.old.uuid
                self.vms.configured.pop(uuid, None)
                self.vms.not_before.pop(uuid, None)
                self._end(uuid, now)
                self._place(uuid)
                self.usage.forget(uuid)

    def _list(self, statuses: Sequence[VmStatus], host: str, now: float) -> None:
        there = {status.uuid: status for status in statuses}
        for vm in [vm for vm, known in self.vms.states.items() if known.host == host and vm not in there]:
            self._leave(vm, now)
        for status in there.values():
            self._change(status, now)

    def _change(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        vm = status.uuid
        known = self.vms.states.get(vm)
        has_moved = known is not None and known.host != status.host
        if gone:
            if not has_moved:
                self._leave(vm, now)
            return
        if has_moved:
            self._leave(vm, now)
        before = VmState.UNKNOWN if known is None else known.state
        self.vms.states[vm] = status
        if status.idle_s is not None:
            self.usage.used(vm, now - _age(status.idle_s))  # an operator's summons, and others that no replica reports
        if status.state is VmState.READY and before not in (VmState.READY, VmState.DRAINING):
            self.usage.used(vm, now - _age(status.state_age_s))
        drain = self._drains.get(vm)
        if drain is not None and drain.state is DrainState.WAITING and status.drain != drain.drain:
            self._end(vm, now)  # a query has saved it
        self._place(vm)

    def _place(self, vm: str) -> None:
        """Put a VM where it belongs, by its state, its configuration and its drain."""
        known, configured = self.vms.states.get(vm), self.vms.configured.get(vm)
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
            host.evictions.consider(vm)
        else:
            host.evictions.forget(vm)
            host.idle.discard(vm)
            return
        if known.kept:
            host.idle.discard(vm)
        else:
            host.idle.set(vm, self.vms.idle_from(vm))

    def _leave(self, vm: str, now: float) -> None:
        """Forget the state of a VM that is gone, or that another host has now."""
        self._end(vm, now)
        known = self.vms.states.pop(vm, None)
        if known is not None:
            host = self._host(known.host)
            host.idle.discard(vm)
            host.evictions.forget(vm)
            host.evictions.wait_no_longer(vm)
            host.evictions.leaving.discard(vm)
        if vm not in self.vms.configured:
            self.usage.forget(vm)  # its last states came after it was removed from the configuration

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(Evictions(self.vms))
        return self._hosts[name]

    # --- who goes ---

    def _judged(self) -> list[_Host]:
        """Return the hosts of which enough is heard to stop a VM (G8)."""
        return [host for name, host in self._hosts.items() if self._is_heard(name)]

    def _is_heard(self, host: str) -> bool:
        """Say whether enough is heard to stop a VM of a host (G8)."""
        reporters, obstacles = self.usage.reporters, self.obstacles
        is_deaf = bool(obstacles.everywhere) or reporters.listens(self._ticked_at) or not reporters.informed
        return not is_deaf and host not in obstacles.on_host

    def _drain_idle(self, host: _Host, now: float) -> list[AskDrain]:
        actions = []
        while len(host.drains) < MAX_DRAINS and (first := self._first_idle(host)) is not None and first[1] <= now:
            actions.append(self._begin(first[0], host))
        return actions

    def _first_idle(self, host: _Host) -> tuple[str, float] | None:
        """Return who is idle first on a host, and from when on."""
        while (found := host.idle.earliest()) is not None and (at := self.vms.idle_from(found[0])) > found[1]:
            host.idle.set(found[0], at)  # it has been used since
        return found

    def _evict(self, host: _Host, now: float) -> list[AskDrain]:
        """Drain what gives way to those that wait for room on a host."""
        free = max(0, MAX_DRAINS - len(host.drains))
        return [self._begin(vm, host, for_room=True) for vm in islice(host.evictions.chosen(now), free)]

    def is_busy(self, host: str) -> bool:
        """Say whether as many VMs of a host are drained as may be at once."""
        return len(self._host(host).drains) >= MAX_DRAINS

    def is_for_room(self, vm: str) -> bool:
        """Say whether a VM is drained only because another one waits for its room."""
        return vm in self._drains and self._drains[vm].for_room

    # --- drains ---

    def _begin(self, vm: str, host: _Host, *, for_room: bool = False) -> AskDrain:
        self._drains[vm] = DrainMachine(vm, self.drain_limit_s, for_room=for_room)
        self.vms.draining.add(vm)
        self.vms.not_before.pop(vm, None)
        host.drains.add(vm)
        host.evictions.leaving.add(vm)
        host.evictions.forget(vm)
        host.idle.discard(vm)
        return AskDrain(vm)

    def _follow(self, vm: str, drain: DrainMachine, now: float) -> list[DrainAction]:
        """Feed a drain what is known now."""
        host = self.vms.host_of(vm)
        if drain.state is DrainState.WAITING and not self._is_heard(host):
            return drain.handle(Used("not enough was heard any longer to know that it is unused"), now)
        if drain.state is DrainState.WAITING and self._idle_at(vm, drain) > now:
            return drain.handle(Used(), now)
        actions = drain.tick(now)
        if drain.state is DrainState.WAITING and self.usage.reporters.all_acknowledge(drain.drain, host):
            actions = drain.handle(Acknowledged(), now)
        return actions

    def _idle_at(self, vm: str, drain: DrainMachine) -> float:
        """Return when a VM that drains was idle enough for that."""
        idle_at = self.vms.idle_at(vm)
        return min(idle_at, self._gives_way_at(vm)) if drain.for_room else idle_at

    def _gives_way_at(self, vm: str) -> float:
        """Return when a VM that drains for another was idle enough for that; never, if none waits any more."""
        own, evictions = self.vms.configured.get(vm), self._host(self.vms.host_of(vm)).evictions
        if own is None or not evictions.is_wanted(own.priority):
            return NEVER
        return self.vms.gives_way_at(vm)

    def _end(self, vm: str, now: float) -> None:
        """Be done with the drain of a VM, if there is one."""
        drain = self._drains.pop(vm, None)
        if drain is not None:
            if drain.state is not DrainState.OVER:
                drain.handle(DrainEnded(vm), now)
            self.vms.draining.discard(vm)
            self._host(self.vms.host_of(vm)).drains.discard(vm)

    def _retry_later(self, vm: str, now: float) -> None:
        if vm in self.vms.configured:
            self.vms.not_before[vm] = now + RETRY_S
        self._place(vm)


def _age(seconds: float) -> float:
    """Return how long ago something was; what is not a duration counts as just now (G8)."""
    return seconds if 0 <= seconds < float("inf") else 0.0
