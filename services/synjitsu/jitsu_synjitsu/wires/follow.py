"""What the store and vmd say of this host's VMs, told to the rules: which are off and may be woken, which run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.inventory import on_host
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_runtime.bus.follow import follow_states, follow_vms
from jitsu_synjitsu.rules.values import check, packed_mac

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_synjitsu.wires.bridge import Bridge
    from jitsu_synjitsu.wires.memory import Memory
    from jitsu_synjitsu.wires.server import SynjitsuServer

MAX_NOTED, MAX_NAME_SHOWN = 5, 64
UNSEEN_S = 2.0
"""A VM that has been up for longer when it is first heard of may have connections that nobody saw begin. So may one
that was up before this Synjitsu listened.
"""
_RUNNING = frozenset({VmState.BOOTING, VmState.READY, VmState.DRAINING})

log = structlog.get_logger("synjitsu")


class Follower:
    """All VMs of this host."""

    def __init__(self, process: World, server: SynjitsuServer, memory: Memory) -> None:
        self._process = process
        self._server = server
        self._memory = memory
        self.drained: Callable[[], None] = lambda: None
        """Called when a VM begins to drain."""
        self.knows_states = asyncio.Event()
        """Set once the states of all VMs have been heard."""
        self.knows_vms = asyncio.Event()
        """Set once it has been heard how all VMs are configured."""
        self._host = process.settings.hypervisor.host
        server.armed = self._armed
        server.unwatched = self.unwatched
        server.left_out = self.left_out
        server.bridges.attached = self._attached
        self._watches_activity = process.settings.synjitsu.watch_activity
        self._vms: dict[str, VM] = {}
        server.is_configured = self._vms.__contains__
        server.probed_port = self._probed_port
        self._states: dict[str, VmStatus] = {}
        self._draining: dict[str, str] = {}
        """VM -> its drain; each report asks for these, and must not look at all VMs for that."""
        self._left_out: dict[str, str] = {}
        """VM -> why it is not held and not watched: what vmd says of it makes no sense."""

    def drains(self) -> list[str]:
        """Return the drains that are honoured."""
        activities = [bridge.activity for bridge in self._server.bridges]
        return [
            drain for vm, drain in self._draining.items() if all(activity.honours(vm, drain) for activity in activities)
        ]

    def unwatched(self) -> dict[str, list[str]]:
        """Return the names of the VMs that run and whose use is not seen, by the reason."""
        found: dict[str, list[str]] = {}
        for uuid, status in self._states.items():
            vm = self._vms.get(uuid)
            if vm is not None and status.state in _RUNNING and self._watches_activity:
                try:
                    self._server.bridges.of(status.bridge or vm.bridge)
                except Unavailable as error:
                    found.setdefault(str(error), []).append(vm.name)
        return found

    def left_out(self) -> list[str]:
        """Return notes about VMs that are left out because of what vmd says of them, or seen for another one."""
        found = [f"VM {self._name(vm)} is left out: {reason}" for vm, reason in self._left_out.items()]
        for bridge in self._server.bridges:
            for mac, vms in bridge.activity.shared_macs().items():
                names = " and ".join(map(self._name, vms))
                found.append(
                    f"the VMs {names} have the same MAC address {mac.hex(':')}: give one another (its key mac)"
                )
        more = len(found) - MAX_NOTED
        return (
            [
                *found[:MAX_NOTED],
                f"{more} more VMs are left out, or have the MAC address of another; the log says which are left out",
            ]
            if more > 0
            else found
        )

    def _name(self, vm: str) -> str:
        return self._states[vm].name[:MAX_NAME_SHOWN] if vm in self._states else vm[:MAX_NAME_SHOWN]

    async def run(self) -> None:
        """Learn the VMs and their states, and go on to follow them.

        Where guests are on loopback, their states come first: as long as no VM is on a bridge, how ten thousand of them
        are configured need not be read.
        """
        vmd = self._process.client("vmd", self._host)
        hypervisor = self._process.settings.hypervisor
        is_without_bridges = hypervisor.kind.about.is_on_loopback and not hypervisor.connections
        states_first = self._server.bridges.are_found and is_without_bridges
        if states_first:
            follow_states(self._process, {self._host: vmd}, self._all_states, self._state)
            await self._server.bridges.are_there.wait()
        store = self._process.client("store")
        await follow_vms(
            self._process,
            store,
            lambda changes: self._configured(on_host(changes, self._host)),
            check=partial(check, self._host),
        )
        self.knows_vms.set()
        if not states_first:
            follow_states(self._process, {self._host: vmd}, self._all_states, self._state)

    def _configured(self, changes: Sequence[VmChanged]) -> None:
        for change in changes:
            if change.new is not None:
                if change.old is not None and change.old.bridge != change.new.bridge:
                    self._forget(change.new.uuid)
                self._vms[change.new.uuid] = change.new
                self._apply(change.new.uuid)
            elif change.old is not None:
                self._vms.pop(change.old.uuid, None)
                self._left_out.pop(change.old.uuid, None)
                self._forget(change.old.uuid)

    def _all_states(self, statuses: list[VmStatus], _: str) -> None:
        for vm in set(self._states) - {status.uuid for status in statuses}:
            del self._states[vm]
            self._draining.pop(vm, None)
            self._left_out.pop(vm, None)
            self._forget(vm)
        for status in statuses:
            self._state(status, gone=False)
            if status.state in AT_REST:
                self._summon_again(status.uuid)
        self.knows_states.set()

    def _summon_again(self, vm: str) -> None:
        """See to a VM that is off though its addresses are held for its boot: vmd died before it started it.

        If it has only just been armed, this joins its start.
        """
        for bridge in self._server.bridges:
            if bridge.arming.awaits_boot(vm):
                self._server.summon_again(bridge, vm)

    def _state(self, status: VmStatus, gone: bool) -> None:
        self._server.name_interface(status.uuid, "" if gone else status.interface)
        if status.drain and not gone:
            self._draining[status.uuid] = status.drain
        else:
            self._draining.pop(status.uuid, None)
        if gone:
            self._states.pop(status.uuid, None)
            self._left_out.pop(status.uuid, None)
            self._forget(status.uuid)
        else:
            boots = status.state is VmState.STARTING and self._boots(status.uuid)
            self._states[status.uuid] = status
            self._apply(status.uuid, boots=boots)

    def _forget(self, vm: str) -> None:
        for bridge in self._server.bridges:
            bridge.ports.is_not_paused(vm)
            bridge.activity.rests(vm)
            self._server.perform(bridge, bridge.arming.unwatch(vm, monotonic(), runs=False))

    def _apply(self, uuid: str, *, boots: bool = False) -> None:
        vm, status = self._vms.get(uuid), self._states.get(uuid)
        if status is not None and status.drain:
            self.drained()
        if status is not None:
            self._server.bridges.want(status.bridge)
        if vm is None or status is None:
            return
        try:
            bridge = self._server.bridges.of(status.bridge or vm.bridge)
        except Unavailable:
            return
        self._follow_if_sound(bridge, vm, status, boots=boots)

    def _attached(self, bridge: Bridge) -> None:
        """Watch the VMs of a bridge that came; what has happened on it before is not known."""
        for uuid, status in self._states.items():
            vm = self._vms.get(uuid)
            with suppress(Unavailable):
                if vm is not None and self._server.bridges.of(status.bridge or vm.bridge) is bridge:
                    self._follow_if_sound(bridge, vm, status, late=True)

    def _follow_if_sound(
        self, bridge: Bridge, vm: VM, status: VmStatus, *, late: bool = False, boots: bool = False
    ) -> None:
        """Follow a VM; one of which vmd says what makes no sense is left out, and costs the others nothing."""
        try:
            mac = packed_mac(status.mac or vm.mac)
        except ValueError as error:
            if self._left_out.get(vm.uuid) != str(error):
                self._left_out[vm.uuid] = str(error)
                log.warning("VM left out", vm=vm.name, reason=str(error))
            self._forget(vm.uuid)
        else:
            self._left_out.pop(vm.uuid, None)
            self._follow(bridge, vm, status, mac, late=late, boots=boots)

    def _follow(self, bridge: Bridge, vm: VM, status: VmStatus, mac: bytes, *, late: bool, boots: bool) -> None:
        self._watch(bridge, vm, status, mac)
        real = bridge.arming.mac_of(vm.uuid, mac)
        if self._watches_activity and boots:
            bridge.activity.runs(vm, real, "", monotonic(), unknown=False, boots=True)
        elif self._watches_activity:
            self._follow_use(bridge, vm, status, real, late=late)
            if late:
                bridge.activity.may_be_connected(vm.uuid, monotonic())
        bridge.focus()

    def _watch(self, bridge: Bridge, vm: VM, status: VmStatus, mac: bytes) -> None:
        state, now = status.state, monotonic()
        if state is VmState.PAUSED and (vm.is_armed or vm.wake_on_traffic):
            bridge.ports.is_paused(vm.uuid, mac)
        elif state not in (VmState.STARTING, VmState.BOOTING):
            bridge.ports.is_not_paused(vm.uuid)
        if state in AT_REST:
            if vm.wake_on_traffic:
                bridge.arming.watch(vm.uuid, [str(address) for address in vm.addresses], mac, now)
            else:
                self._server.perform(bridge, bridge.arming.unwatch(vm.uuid, now, runs=False))
        elif state in (VmState.STARTING, VmState.BOOTING):
            bridge.arming.starts(vm.uuid)
        elif state in (VmState.READY, VmState.DRAINING):
            self._server.perform(bridge, bridge.arming.unwatch(vm.uuid, now, runs=True))

    def _armed(self, uuid: str, bridge: Bridge, mac: bytes) -> None:
        """Note that a VM is about to run: one that resumes is connected before vmd's feed says that it boots."""
        vm = self._vms.get(uuid)
        if vm is not None and self._watches_activity:
            mac = bridge.arming.mac_of(uuid, mac)
            bridge.activity.runs(vm, mac, "", monotonic(), unknown=False, boots=self._boots(uuid))

    def _probed_port(self, vm: str) -> int | None:
        return self._vms[vm].wait_for_port if vm in self._vms else None

    def _boots(self, vm: str) -> bool:
        """Say whether a VM that starts has sent nothing yet: one that was paused or suspended goes on."""
        known = self._states.get(vm)
        return known is not None and known.state in (VmState.OFF, VmState.FAILED)

    def _follow_use(self, bridge: Bridge, vm: VM, status: VmStatus, mac: bytes, *, late: bool) -> None:
        if status.state in _RUNNING:
            up_s = status.up_s or 0.0
            up_since = monotonic() - up_s
            unseen = late or up_s > UNSEEN_S or up_since < bridge.listens_since
            known = self._memory.take(vm.uuid, up_since)
            bridge.activity.runs(
                vm,
                mac,
                status.drain,
                monotonic(),
                unknown=unseen and known is None,
            )
            if known is not None:
                bridge.activity.restore(vm.uuid, known)
        elif status.state not in (VmState.STARTING, VmState.STOPPING):
            bridge.activity.rests(vm.uuid)
