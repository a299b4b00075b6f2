"""What Synjitsu holds and what it watches, decided from how the VMs are configured and from what vmd reports of them.

The store says which VMs there are, and vmd says in which state each of this host's VMs is and on which bridge. A VM of
which both are known is looked after according to its state:

    state               what follows
    off, failed,        its addresses are held if traffic may wake it (`wake_on_traffic`), else let go; nobody uses it
    paused, suspended
                        If a magic packet may wake it (`wake_on_lan`), one is waited for; in no other state is it
    paused              as well: its port of the bridge is shut, if Synjitsu will hand over to it when it resumes
    starting            it begins to boot: its addresses are held by Arm, which vmd sends, and not because it is off.
                        Who uses it is watched from now on, if it has sent nothing before
    booting             as starting; and its use is watched
    ready, draining     its addresses are the guest's own; its use is watched
    stopping            nothing changes until it has stopped

A VM whose state vmd reports with values that make no sense is left out: it is neither held nor watched, a note says so,
and the others are not affected (G9). A VM that disappears from the configuration or from vmd is forgotten.

Every event yields the whole of what is to be done for the VM, so that it does no harm to receive one twice. The one
exception is a snapshot of all states: it comes when vmd is back after it was away. A VM that is off in it although its
addresses are held for a boot was about to be started when vmd died, and is summoned again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_synjitsu.rules.values import packed_mac

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM

MAX_NAME_SHOWN = 64
UNSEEN_S = 2.0
"""A VM that has been up for longer when it is first heard of may have connections that nobody saw begin."""
RUNNING = frozenset({VmState.BOOTING, VmState.READY, VmState.DRAINING})


@dataclass(frozen=True)
class HostVmsConfigured:
    """The store has reported changes of VMs of this host."""

    changes: Sequence[VmChanged]


@dataclass(frozen=True)
class StateReported:
    """vmd has reported the state of one VM, or that it no longer knows it."""

    status: VmStatus
    gone: bool = False


@dataclass(frozen=True)
class HostStatesListed:
    """vmd has reported the states of all its VMs."""

    statuses: Sequence[VmStatus]


@dataclass(frozen=True)
class BridgeAttached:
    """Synjitsu has begun to listen on a bridge on which VMs may be running already."""

    bridge: str


@dataclass(frozen=True)
class Armed:
    """vmd is about to start a VM. One that resumes may be connected before vmd's feed says that it boots."""

    vm: str
    bridge: str
    mac: bytes


WatchlistEvent = HostVmsConfigured | StateReported | HostStatesListed | BridgeAttached | Armed


@dataclass(frozen=True)
class WantBridge:
    """Listen on a bridge, because a VM is there."""

    bridge: str


@dataclass(frozen=True)
class NameInterface:
    """Note which port of a bridge is the VM's; "" if it has none any longer."""

    vm: str
    interface: str


@dataclass(frozen=True)
class Forget:
    """Neither hold nor watch a VM on any bridge, and leave none of its ports shut."""

    vm: str


@dataclass(frozen=True)
class HoldAddresses:
    """Hold the addresses of a VM that is off, because traffic may wake it."""

    bridge: str
    vm: str
    addresses: tuple[str, ...]
    mac: bytes


@dataclass(frozen=True)
class LetGo:
    """Hold a VM's addresses no longer because it is off; `runs`: they are the guest's own now."""

    bridge: str
    vm: str
    runs: bool


@dataclass(frozen=True)
class EndHold:
    """Hold a VM's addresses no longer because it is off: it starts, and they are held for its boot, or not at all."""

    bridge: str
    vm: str


@dataclass(frozen=True)
class AwaitMagic:
    """Wake a VM that is at rest by a magic packet."""

    bridge: str
    vm: str
    mac: bytes


@dataclass(frozen=True)
class IgnoreMagic:
    """Wake it by none."""

    bridge: str
    vm: str


@dataclass(frozen=True)
class Pause:
    """Keep packets out of the queue of a guest that is paused."""

    bridge: str
    vm: str
    mac: bytes


@dataclass(frozen=True)
class Unpause:
    """Let packets into its queue again, if they were kept out."""

    bridge: str
    vm: str


@dataclass(frozen=True)
class WatchBoot:
    """Watch who uses a VM that starts. `is_fresh`: it has sent nothing yet."""

    bridge: str
    vm: VM
    mac: bytes
    is_fresh: bool


@dataclass(frozen=True)
class WatchUse:
    """Watch who uses a VM that runs. `is_late`: it may have been used before anybody listened on its bridge."""

    bridge: str
    vm: VM
    mac: bytes
    drain: str
    up_s: float
    is_late: bool


@dataclass(frozen=True)
class Unwatch:
    """Watch a VM's use no longer: it does not run."""

    bridge: str
    vm: str


@dataclass(frozen=True)
class LeaveOut:
    """Log that a VM is neither held nor watched, and why."""

    vm: str
    reason: str


@dataclass(frozen=True)
class SummonArmed:
    """Have vmd start a VM if its addresses are held for a boot: vmd died before it had started it."""

    vm: str


@dataclass(frozen=True)
class ReportSoon:
    """Report to the reaper at once: a VM drains."""


BridgeAction = (
    HoldAddresses | LetGo | EndHold | AwaitMagic | IgnoreMagic | Pause | Unpause | WatchBoot | WatchUse | Unwatch
)
"""Of one VM, on a bridge of its host."""
WatchlistAction = WantBridge | NameInterface | Forget | BridgeAction | LeaveOut | SummonArmed | ReportSoon


@dataclass
class Watchlist:
    """All VMs of this host."""

    watches_activity: bool
    """As configured: without it nobody's use is watched."""
    resolve: Callable[[str], str]
    """Given the bridge that a VM names, returns the one on which Synjitsu listens for it; "" if there is none."""
    vms: dict[str, VM] = field(default_factory=dict)
    """As configured."""
    states: dict[str, VmStatus] = field(default_factory=dict)
    draining: dict[str, str] = field(default_factory=dict)
    """VM -> its drain. Each report asks for these, and must not go through all VMs for that."""
    left_out: dict[str, str] = field(default_factory=dict)
    """VM -> why it is neither held nor watched."""
    awaited: set[str] = field(default_factory=set)
    """VMs that a magic packet wakes."""

    def handle(self, event: WatchlistEvent, now: float) -> Sequence[WatchlistAction]:
        """Return what is to be done because of an event."""
        del now  # nothing here depends on the time
        match event:
            case HostVmsConfigured(changes):
                return [action for change in changes for action in self._configured(change)]
            case StateReported(status, gone):
                return self._state(status, gone=gone)
            case HostStatesListed(statuses):
                return self._all_states(statuses)
            case BridgeAttached(bridge):
                return self._attached(bridge)
            case Armed(vm, bridge, mac):
                return self._armed(vm, bridge, mac)

    def deadline(self) -> float | None:
        """Return None: nothing here waits."""
        return None

    def tick(self, now: float) -> Sequence[WatchlistAction]:
        """Return nothing."""
        del now
        return []

    def name(self, vm: str) -> str:
        """Return the name of a VM, for people."""
        return self.states[vm].name[:MAX_NAME_SHOWN] if vm in self.states else vm[:MAX_NAME_SHOWN]

    def probed_port(self, vm: str) -> int | None:
        """Return the port to which vmd connects while a VM boots."""
        return self.vms[vm].wait_for_port if vm in self.vms else None

    def running(self) -> list[tuple[str, str]]:
        """Return the name and the bridge of each VM that runs and whose use is to be watched."""
        if not self.watches_activity:
            return []
        found = []
        for uuid, status in self.states.items():
            vm = self.vms.get(uuid)
            if vm is not None and status.state in RUNNING:
                found.append((vm.name, status.bridge or vm.bridge))
        return found

    # --- events ---

    def _configured(self, change: VmChanged) -> list[WatchlistAction]:
        actions: list[WatchlistAction] = []
        if change.new is not None:
            if change.old is not None and change.old.bridge != change.new.bridge:
                actions.append(Forget(change.new.uuid))
            self.vms[change.new.uuid] = change.new
            return actions + self._apply(change.new.uuid)
        if change.old is not None:
            self.vms.pop(change.old.uuid, None)
            self.left_out.pop(change.old.uuid, None)
            actions.append(Forget(change.old.uuid))
        return actions

    def _all_states(self, statuses: Sequence[VmStatus]) -> list[WatchlistAction]:
        actions: list[WatchlistAction] = []
        for vm in set(self.states) - {status.uuid for status in statuses}:
            actions += self._gone(vm)
        for status in statuses:
            actions += self._state(status, gone=False)
            if status.state in AT_REST:
                actions.append(SummonArmed(status.uuid))
        return actions

    def _state(self, status: VmStatus, *, gone: bool) -> list[WatchlistAction]:
        actions: list[WatchlistAction] = [NameInterface(status.uuid, "" if gone else status.interface)]
        if gone:
            return actions + self._gone(status.uuid)
        if status.drain:
            self.draining[status.uuid] = status.drain
        else:
            self.draining.pop(status.uuid, None)
        boots = status.state is VmState.STARTING and self._is_fresh(status.uuid)
        self.states[status.uuid] = status
        return actions + self._apply(status.uuid, boots=boots)

    def _gone(self, vm: str) -> list[WatchlistAction]:
        self.states.pop(vm, None)
        self.draining.pop(vm, None)
        self.left_out.pop(vm, None)
        return [Forget(vm)]

    def _attached(self, bridge: str) -> list[WatchlistAction]:
        actions: list[WatchlistAction] = []
        for uuid, status in self.states.items():
            vm = self.vms.get(uuid)
            if vm is not None and self.resolve(status.bridge or vm.bridge) == bridge:
                actions += self._look_after(bridge, vm, status, is_late=True)
        return actions

    def _armed(self, uuid: str, bridge: str, mac: bytes) -> list[WatchlistAction]:
        vm = self.vms.get(uuid)
        if vm is None or not self.watches_activity:
            return []
        return [WatchBoot(bridge, vm, mac, self._is_fresh(uuid))]

    # --- what follows for one VM ---

    def _apply(self, uuid: str, *, boots: bool = False) -> list[WatchlistAction]:
        vm, status = self.vms.get(uuid), self.states.get(uuid)
        actions: list[WatchlistAction] = []
        if status is None:
            return actions
        if status.drain:
            actions.append(ReportSoon())
        if status.bridge:
            actions.append(WantBridge(status.bridge))
        if vm is not None:
            actions += self._look_after(status.bridge or vm.bridge, vm, status, boots=boots)
        return actions

    def _look_after(
        self, bridge: str, vm: VM, status: VmStatus, *, is_late: bool = False, boots: bool = False
    ) -> list[WatchlistAction]:
        try:
            mac = packed_mac(status.mac or vm.mac)
        except ValueError as error:
            is_known = self.left_out.get(vm.uuid) == str(error)
            self.left_out[vm.uuid] = str(error)
            return [Forget(vm.uuid)] if is_known else [Forget(vm.uuid), LeaveOut(vm.uuid, str(error))]
        self.left_out.pop(vm.uuid, None)
        actions = self._held(bridge, vm, status.state, mac)
        if not self.watches_activity:
            return actions
        if boots:
            return [*actions, WatchBoot(bridge, vm, mac, is_fresh=True)]
        if status.state in RUNNING:
            return [*actions, WatchUse(bridge, vm, mac, status.drain, status.up_s or 0.0, is_late)]
        if status.state not in (VmState.STARTING, VmState.STOPPING):
            return [*actions, Unwatch(bridge, vm.uuid)]
        return actions

    def _held(self, bridge: str, vm: VM, state: VmState, mac: bytes) -> list[WatchlistAction]:
        actions: list[WatchlistAction] = []
        if state is VmState.PAUSED and (vm.is_armed or vm.wake_on_traffic):
            actions.append(Pause(bridge, vm.uuid, mac))
        elif state not in (VmState.STARTING, VmState.BOOTING):
            actions.append(Unpause(bridge, vm.uuid))
        if state in AT_REST and vm.wake_on_lan:
            self.awaited.add(vm.uuid)
            actions.append(AwaitMagic(bridge, vm.uuid, mac))
        elif vm.uuid in self.awaited:
            self.awaited.discard(vm.uuid)
            actions.append(IgnoreMagic(bridge, vm.uuid))
        if state in AT_REST and vm.wake_on_traffic:
            actions.append(HoldAddresses(bridge, vm.uuid, tuple(map(str, vm.addresses)), mac))
        elif state in AT_REST:
            actions.append(LetGo(bridge, vm.uuid, runs=False))
        elif state in (VmState.STARTING, VmState.BOOTING):
            actions.append(EndHold(bridge, vm.uuid))
        elif state in (VmState.READY, VmState.DRAINING):
            actions.append(LetGo(bridge, vm.uuid, runs=True))
        return actions

    def _is_fresh(self, vm: str) -> bool:
        """Say whether a VM that starts has sent nothing yet: one that was paused or suspended goes on."""
        known = self.states.get(vm)
        return known is not None and known.state in (VmState.OFF, VmState.FAILED)


def may_be_connected(up_s: float, now: float, listens_since: float, *, is_late: bool) -> bool:
    """Say whether a VM may have connections that nobody saw begin, when it is first heard of that it is up."""
    return is_late or up_s > UNSEEN_S or now - up_s < listens_since
