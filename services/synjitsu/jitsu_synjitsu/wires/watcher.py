"""Performs what rules/watchlist.py decides on the bridges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.driver import Driver
from jitsu_synjitsu.rules.watchlist import (
    AwaitMagic,
    EndHold,
    Forget,
    HoldAddresses,
    IgnoreMagic,
    LeaveOut,
    LetGo,
    NameInterface,
    Pause,
    ReportSoon,
    SummonArmed,
    Unpause,
    Unwatch,
    WantBridge,
    WatchBoot,
    WatchlistAction,
    WatchlistEvent,
    WatchUse,
    may_be_connected,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.rules.watchlist import BridgeAction, Watchlist
    from jitsu_synjitsu.wires.bridge import WatchedBridge
    from jitsu_synjitsu.wires.bridges import Bridges
    from jitsu_synjitsu.wires.interfaces import Interfaces
    from jitsu_synjitsu.wires.memory import Memory
    from jitsu_synjitsu.wires.outlet import VmdOutlet

MAX_NOTED = 5

log = structlog.get_logger("synjitsu")


class Watcher:
    """The watchlist of this host, and the bridges on which it is carried out."""

    def __init__(
        self,
        watchlist: Watchlist,
        bridges: Bridges,
        interfaces: Interfaces,
        memory: Memory,
        outlet: VmdOutlet,
        clock: Clock,
    ) -> None:
        self.watchlist = watchlist
        self.memory = memory
        self.drain_seen: Callable[[], None] = lambda: None
        """Called when a VM begins to drain, or goes on to."""
        self._bridges = bridges
        self._interfaces = interfaces
        self._outlet = outlet
        self._clock = clock
        self._driver = Driver[WatchlistEvent, WatchlistAction](watchlist, self._perform, clock)

    def handle(self, event: WatchlistEvent) -> None:
        """Have the watchlist look at an event, and do what follows."""
        self._driver.handle(event)

    def drains(self) -> list[str]:
        """Return the drains that are honoured: no bridge has seen any use of the VM since it drains."""
        activities = [bridge.activity for bridge in self._bridges]
        draining = self.watchlist.draining.items()
        return [drain for vm, drain in draining if all(activity.honours(vm, drain) for activity in activities)]

    def unwatched(self) -> dict[str, list[str]]:
        """Return the names of the VMs that run and whose use is not seen, by the reason."""
        found: dict[str, list[str]] = {}
        for name, bridge in self.watchlist.running():
            try:
                self._bridges.of(bridge)
            except Unavailable as error:
                found.setdefault(str(error), []).append(name)
        return found

    def notes(self) -> list[str]:
        """Return notes about VMs that are left out because of what vmd reports of them, or confused with another."""
        name = self.watchlist.name
        found = [f"VM {name(vm)} is left out: {reason}" for vm, reason in self.watchlist.left_out.items()]
        for bridge in self._bridges:
            for mac, vms in bridge.activity.macs.shared().items():
                names = " and ".join(name(running.vm) for running in vms)
                found.append(
                    f"the VMs {names} have the same MAC address {mac.hex(':')}: give one another (its key mac)"
                )
        more = len(found) - MAX_NOTED
        if more <= 0:
            return found
        rest = f"{more} more VMs are left out, or have the MAC address of another; the log says which are left out"
        return [*found[:MAX_NOTED], rest]

    # --- actions ---

    def _perform(self, actions: Sequence[WatchlistAction]) -> None:
        for action in actions:
            match action:
                case WantBridge(bridge):
                    self._bridges.want(bridge)
                case NameInterface(vm, interface):
                    self._interfaces.name(vm, interface)
                case Forget(vm):
                    self._forget(vm)
                case LeaveOut(vm, reason):
                    log.warning("VM left out", vm=self.watchlist.name(vm), reason=reason)
                case SummonArmed(vm):
                    self._summon_again(vm)
                case ReportSoon():
                    self.drain_seen()
                case _:
                    self._perform_on_bridge(action)

    def _perform_on_bridge(self, action: BridgeAction) -> None:
        """Do what concerns one bridge; nothing if Synjitsu does not listen there, until it does."""
        try:
            bridge = self._bridges.of(action.bridge)
        except Unavailable:
            return
        now = self._clock.now()
        match action:
            case HoldAddresses(_, vm, addresses, mac):
                bridge.addresses.watch(vm, addresses, mac, now)
            case LetGo(_, vm, runs):
                bridge.perform(bridge.addresses.unwatch(vm, now, runs=runs))
            case EndHold(_, vm):
                bridge.addresses.starts(vm)
            case AwaitMagic(_, vm, mac):
                bridge.magic.listen(vm, mac)
            case IgnoreMagic(_, vm):
                bridge.magic.end(vm)
            case Pause(_, vm, mac):
                bridge.ports.is_paused(vm, mac)
            case Unpause(_, vm):
                bridge.ports.is_not_paused(vm)
            case WatchBoot(_, configured, mac, is_fresh):
                real = bridge.addresses.moved.real(configured.uuid, mac)
                bridge.activity.runs(configured, real, "", now, unknown=False, boots=is_fresh)
            case WatchUse():
                self._watch_use(bridge, action, now)
            case Unwatch(_, vm):
                bridge.activity.rests(vm)
        bridge.focus()

    def _watch_use(self, bridge: WatchedBridge, action: WatchUse, now: float) -> None:
        vm = action.vm
        known = self.memory.take(vm.uuid, now - action.up_s)
        unseen = may_be_connected(action.up_s, now, bridge.listens_since, is_late=action.is_late)
        real = bridge.addresses.moved.real(vm.uuid, action.mac)
        bridge.activity.runs(vm, real, action.drain, now, unknown=unseen and known is None)
        if known is not None:
            bridge.activity.restore(vm.uuid, known)
        if action.is_late:
            bridge.activity.may_be_connected(vm.uuid, now)

    def _forget(self, vm: str) -> None:
        for bridge in self._bridges:
            bridge.ports.is_not_paused(vm)
            bridge.activity.rests(vm)
            bridge.magic.end(vm)
            bridge.perform(bridge.addresses.unwatch(vm, self._clock.now(), runs=False))

    def _summon_again(self, vm: str) -> None:
        for bridge in self._bridges:
            if bridge.addresses.held.awaits_boot(vm):
                self._outlet.summon_again(bridge, vm)
