"""At which port of a bridge each VM is, as far as vmd knows: the host's end of the guest's interface."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.wires.bridge import WatchedBridge
    from jitsu_synjitsu.wires.lan import Lan


class Interfaces:
    """Those of all VMs that run or are paused."""

    def __init__(self, lan: Lan, clock: Clock) -> None:
        self._bridges: list[WatchedBridge] = []
        self._lan = lan
        self._clock = clock
        self.by_vm: dict[str, str] = {}

    def introduce(self, bridge: WatchedBridge) -> None:
        """Let a new bridge know all that is known, and what comes to be known."""
        self._bridges.append(bridge)
        bridge.addresses.claims.heard_from = partial(self._heard_from, bridge.name)
        for vm, interface in self.by_vm.items():
            bridge.ports.named(vm, interface)

    def name(self, vm: str, interface: str) -> None:
        """Note at which interface a VM is, "" if at none; claims on its addresses can be decided then."""
        for bridge in self._bridges:
            bridge.ports.named(vm, interface)
        if not interface:
            self.by_vm.pop(vm, None)
        elif self.by_vm.get(vm) != interface:
            self.by_vm[vm] = interface
            for bridge in self._bridges:
                bridge.perform(bridge.addresses.decide(vm, self._clock.now()))

    def _heard_from(self, bridge: str, vm: str) -> frozenset[bytes] | None:
        interface = self.by_vm.get(vm)
        return None if interface is None else self._lan.heard_at(bridge, interface)
