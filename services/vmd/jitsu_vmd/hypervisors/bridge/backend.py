"""The mock hypervisor `bridge`: guests in network namespaces on a Linux bridge, as real VMs would be; needs root."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import Refused, SetupFault
from jitsu_runtime.native_guest import PROGRAM, native_guest
from jitsu_vmd.hypervisor import Nic
from jitsu_vmd.hypervisors.mock.client import CALL_LIMIT_S, MockHypervisor
from jitsu_vmd.hypervisors.mock.messages import MakeBridge
from jitsu_vmd.hypervisors.mock.rules import check_keys_on_a_bridge
from jitsu_vmd.hypervisors.shared.rules.spec import mock_spec
from jitsu_vmd.hypervisors.shared.this_host import check_bridges

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisors.shared.rules.spec import MockSpec


TUN = "/dev/net/tun"


def make(world: World, connection: HypervisorConnection) -> Bridge:
    """Return the mock hypervisor, whose host process others may run."""
    return Bridge(world, connection.uri)


class Bridge(MockHypervisor):
    """Guests on a bridge."""

    name = "mock (bridge)"

    def __init__(self, world: World, uri: str = "") -> None:
        super().__init__(world, uri)
        self._bridge = world.settings.hypervisor.bridge
        self._addresses = list(map(str, world.settings.hypervisor.bridge_addresses))

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
        """Refuse arguments for a guest on a tap that it could not be given; other guests are given none."""
        if self._is_on_tap(mock_spec(vm)):
            check_cmdline(vm)

    def _check_keys(self, vm: VM) -> None:
        check_keys_on_a_bridge(vm, is_on_tap=self._is_on_tap(mock_spec(vm)))
        if not self._is_others:
            check_bridges(name for name in vm.config.get("nic", ()) if name != self._bridge)

    def _is_on_tap(self, spec: MockSpec) -> bool:
        return is_on_tap(spec, is_here=not self._is_others)

    def _bridge_of(self, vm: VM) -> str:
        return vm.bridge or self._bridge

    def _nics(self, vm: VM, interface: str) -> tuple[Nic, ...]:
        # The MAC address that the hypervisor knows. A guest with a `boot_mac` has another one, as some real guests do.
        return (Nic(vm.mac, self._bridge_of(vm), interface),)

    def _network(self, vm: VM, spec: MockSpec) -> dict[str, Any]:
        return {
            "mac": spec.mac,
            "bridge": self._bridge_of(vm),
            "listen_after": spec.listen_after_s,
            "announces": spec.announces,
            "tap": self._is_on_tap(spec),
            "arguments": spec.arguments,
        }


def is_on_tap(spec: MockSpec, *, is_here: bool) -> bool:
    """Say whether a guest is on a tap. Where the VM does not say it, it is if it can be the guest in C.

    `is_here` is false if the guest runs on another machine, of which nothing is known.
    """
    if spec.is_on_tap is not None:
        return spec.is_on_tap
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
