"""The mock hypervisor `bridge`: guests in network namespaces on a Linux bridge, as real VMs would be; needs root."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import Refused, SetupFault
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_runtime.native_guest import PROGRAM, native_guest
from jitsu_vmd.hypervisor import Nic
from jitsu_vmd.hypervisors.mock.client import CALL_LIMIT_S, MockHypervisor
from jitsu_vmd.hypervisors.mock.messages import MakeBridge
from jitsu_vmd.rules import means
from jitsu_vmd.wires.parts import bridge_fault

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World


TUN = "/dev/net/tun"


def make(world: World, connection: Connection) -> Bridge:
    """Return the mock hypervisor, whose host process others may run."""
    return Bridge(world, connection.uri)


class Bridge(MockHypervisor):
    """Guests on a bridge."""

    name = "mock (bridge)"

    def __init__(self, process: World, uri: str = "") -> None:
        super().__init__(process, uri)
        self._bridge = process.settings.hypervisor.bridge
        self._addresses = list(map(str, process.settings.hypervisor.bridge_addresses))

    async def open(self) -> None:
        """Start the host process if there is none; it makes the bridge."""
        if os.geteuid() and not self._is_others:
            raise SetupFault("mock guests on a bridge need root", hint="hypervisor.kind = loopback needs no rights")
        await super().open()

    async def _prepare(self) -> None:
        # The host may have been started for loopback guests; one that others run has made its bridge by itself.
        if not self._is_others:
            request = MakeBridge(name=self._bridge, addresses=self._addresses)
            await self._client.call(request, Done, CALL_LIMIT_S)

    def check(self, vm: VM) -> None:
        """Refuse arguments that a guest on a tap would not see; others need not see them."""
        if is_on_tap(vm, is_here=not self._is_others):
            check_cmdline(vm)

    def _mistake(self, vm: VM) -> str:
        if found := means.of_the_bridge(vm, is_on_tap=is_on_tap(vm, is_here=not self._is_others)):
            return found
        others = [] if self._is_others else [name for name in vm.config.get("nic", ()) if name != self._bridge]
        faults = (bridge_fault(name) for name in others)
        return next((f"nic: {fault}" for fault in faults if fault), "")

    def _bridge_of(self, vm: VM) -> str:
        return vm.bridge or self._bridge

    def _nics(self, vm: VM, interface: str) -> tuple[Nic, ...]:
        # A guest with a `boot_mac` has another MAC address than its hypervisor knows, as some real ones do.
        return (Nic(vm.mac, self._bridge_of(vm), interface),)

    def _network(self, vm: VM) -> dict[str, Any]:
        def value(key: str) -> str:
            return vm.config.get(key, (KEYS[key].default,))[0]

        return {
            "mac": value("boot_mac") or vm.mac,
            "bridge": self._bridge_of(vm),
            "listen_after": float(value("listen_after")),
            "announces": vm.flag("announces"),
            "tap": is_on_tap(vm, is_here=not self._is_others),
            "arguments": value("cmdline"),
        }


def is_on_tap(vm: VM, *, is_here: bool) -> bool:
    """Say whether a guest is on a tap: where the key is silent, if it can be the guest in C.

    `is_here` is false if the guest runs on another machine, of which nothing is known.
    """
    if "tap" in vm.config:
        return vm.flag("tap")
    return is_here and bool(native_guest()) and os.access(TUN, os.R_OK | os.W_OK)


def check_cmdline(vm: VM) -> None:
    """Raise Refused if something is wrong with the arguments of a guest on a tap."""
    if "cmdline" not in vm.config:
        return
    try:
        shlex.split(vm.config["cmdline"][0])
    except ValueError as error:
        raise Refused(f"cmdline: {error}") from None
    if not native_guest():
        raise Refused(f"cmdline: it is for {PROGRAM}, which is not built here; see guests/README.md")
