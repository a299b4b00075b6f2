"""Synjitsu as a whole: what its parts are, how it starts, and its rpc."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.askers import Askers
from jitsu_protocol.messages import Arm, Disarm, Done
from jitsu_protocol.model.errors import BadRequest, Unavailable
from jitsu_protocol.model.privacy import Privacy
from jitsu_protocol.rates import Buckets, Networks
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.addresses import Addresses
from jitsu_synjitsu.rules.events import ArmRequested
from jitsu_synjitsu.rules.held import HeldVms
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.magic import MagicPackets
from jitsu_synjitsu.rules.strangers import Strangers
from jitsu_synjitsu.rules.values import packed, packed_mac, seconds
from jitsu_synjitsu.rules.waking import WakeLimit
from jitsu_synjitsu.rules.watchlist import Armed, BridgeAttached, Watchlist
from jitsu_synjitsu.wires.bridge import WatchedBridge
from jitsu_synjitsu.wires.bridges import Bridges
from jitsu_synjitsu.wires.entries import Entries
from jitsu_synjitsu.wires.focus import Focus
from jitsu_synjitsu.wires.interfaces import Interfaces
from jitsu_synjitsu.wires.ledger import Ledger
from jitsu_synjitsu.wires.memory import Memory
from jitsu_synjitsu.wires.outlet import VmdOutlet
from jitsu_synjitsu.wires.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from jitsu_runtime.world import World
    from jitsu_synjitsu.wires.lan import Lan

LOOK_S = 0.25
"""How often bridges are looked for that came or went, and VMs are looked at again."""
BURST_OF_ALL_S = 10.0
"""This many seconds' worth of `wake_rate_of_all` may come at once."""

log = structlog.get_logger("synjitsu")


class SynjitsuServer:
    """All bridges of this host, and the rpc that vmd calls."""

    def __init__(self, world: World, lan: Lan) -> None:
        settings, directory = world.settings.synjitsu, world.settings.bus.directory
        self._world = world
        self._lan = lan
        self.kept = Kept(settings.max_kept_per_vm, settings.max_kept)
        self._wakes = WakeLimit(
            Networks(settings.wake_for),
            Buckets(settings.wake_rate, settings.wake_burst),
            Buckets(settings.wake_rate_of_all, settings.wake_rate_of_all * BURST_OF_ALL_S),
        )
        self._ledger = Ledger(directory / "synjitsu.ports", lan)
        self._entries = Entries(world, self._managed)
        host = world.settings.hypervisor.host
        name = f"synjitsu-{host}" if host else "synjitsu"
        self.askers = Askers(name, uuid.uuid4().hex, Privacy(world.settings.log.privacy))
        self._outlet = VmdOutlet(world, self._entries, self.askers)
        self.interfaces = Interfaces(lan, world.clock)
        self.bridges = Bridges(settings.bridges, lan, self._bridge)
        self.watcher = Watcher(
            Watchlist(settings.watch_activity, self.bridges.resolve),
            self.bridges,
            self.interfaces,
            Memory(directory / "synjitsu.connections", world.clock),
            self._outlet,
            world.clock,
        )
        self.bridges.attached = lambda bridge: self.watcher.handle(BridgeAttached(bridge.name))
        self.strangers = Strangers(self.watcher.watchlist.vms, self._is_held)

    def _bridge(self, name: str) -> WatchedBridge:
        focus = Focus(
            Addresses(HeldVms(self.kept), self._wakes), Activity(), MagicPackets(self._wakes), self._world.clock
        )
        bridge = WatchedBridge(name, focus, self._lan, self._world.clock, self._ledger, self._outlet)
        self.interfaces.introduce(bridge)
        return bridge

    async def start(self) -> None:
        """Attach to the bridges, and serve."""
        self._ledger.restore()
        self._world.on_stop = self._open_ports
        self._look()
        self._world.serve({Arm: self.arm, Disarm: self.disarm})
        self._world.spawn(self._look_for_ever(), "bridges")

    async def _open_ports(self) -> None:
        """Leave no port of a bridge shut behind."""
        for bridge in self.bridges:
            bridge.ports.open_all()
        self._ledger.close()

    async def _look_for_ever(self) -> None:
        while not self.bridges.is_off:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        self.bridges.look()
        for bridge in self.bridges:
            bridge.look_around()

    # --- the rpc ---

    def arm(self, request: Arm) -> Done | Awaitable[Done]:
        """Answer Arm."""
        try:
            packed(request.addresses)
            mac, limit_s = packed_mac(request.mac), seconds(request.limit_s)
        except ValueError as error:
            raise BadRequest(f"Synjitsu cannot hold the addresses of the VM {request.vm[:64]}: {error}") from None
        for forgotten in self.strangers.admit(request.vm):
            self.interfaces.name(forgotten, "")
            for bridge in self.bridges:
                bridge.forget(forgotten)
        if request.handover == "xenstore":
            return self._arm_by_xenstore(request, mac, limit_s)
        return self._arm(request, mac, limit_s)

    async def _arm_by_xenstore(self, request: Arm, mac: bytes, limit_s: float) -> Done:
        """Make room for what is handed over; without Xenstore it is sent to the guest, as to any other."""
        self.bridges.want(request.bridge)
        self.bridges.of(request.bridge)
        try:
            await self._entries.arm(request.vm, request.addresses, request.domain_id)
        except Unavailable as error:
            log.warning("kept packets cannot be handed over through Xenstore", vm=request.vm, reason=str(error))
            return self._arm(request, mac, limit_s)
        return self._arm(request, mac, limit_s, by_xenstore=True)

    def _arm(self, request: Arm, mac: bytes, limit_s: float, *, by_xenstore: bool = False) -> Done:
        self.bridges.want(request.bridge)
        bridge, now = self.bridges.of(request.bridge), self._world.clock.now()
        if request.interface:
            self.interfaces.name(request.vm, request.interface)
        self.watcher.handle(Armed(request.vm, bridge.name, mac))
        if not request.is_there:
            bridge.warn_if_elsewhere(request.vm, mac)
        order = ArmRequested(now + limit_s, by_xenstore, self.watcher.watchlist.probed_port(request.vm))
        bridge.perform(bridge.addresses.arm(request.vm, request.addresses, mac, order, now))
        return Done(note=bridge.addresses.held.boot_note(request.vm))

    def disarm(self, request: Disarm) -> Done:
        """Answer Disarm."""
        for bridge in self.bridges:
            bridge.perform(bridge.addresses.disarm(request.vm, request.outcome, self._world.clock.now()))
        return Done()

    # --- what the parts ask for ---

    def _is_held(self, vm: str) -> bool:
        return any(vm in bridge.addresses.held for bridge in self.bridges)

    def _managed(self, vm: str) -> None:
        """Have it noted that a guest looks after its address itself, as it says in Xenstore."""
        for bridge in self.bridges:
            bridge.perform(bridge.addresses.managed(vm, self._world.clock.now()))
