"""What a bridge cannot do itself: it reaches vmd and Xenstore through here (see `Outlet` in bridge.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Done, HandedOver, Summon, Summoned
from jitsu_protocol.model.errors import JitsuError
from jitsu_synjitsu.rules.clients import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.askers import Askers, What
    from jitsu_runtime.world import World
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.wires.bridge import WatchedBridge
    from jitsu_synjitsu.wires.entries import Entries

REPORT_TIMEOUT_S = 5.0
WAKE_TIMEOUT_S = 60.0

log = structlog.get_logger("synjitsu")


class VmdOutlet:
    """Calls vmd, each call in a task of its own."""

    def __init__(self, world: World, entries: Entries, askers: Askers) -> None:
        self._world = world
        self._askers = askers
        self._vmd = world.client("vmd", world.settings.hypervisor.host)
        self._entries = entries

    def handed_over(self, vm: str) -> None:
        """Report to vmd that the guest is there, and has all that was kept for it."""
        self._world.spawn(self._handed_over(vm))

    def wake(self, bridge: WatchedBridge, vm: str, packet: Seen | None) -> None:
        """Have vmd start a VM to which somebody has sent a packet."""
        self._world.spawn(self._wake(bridge, vm, self._token(vm, "packet", packet)))

    def summon(self, vm: str, packet: Seen | None) -> None:
        """Have vmd start a VM that a magic packet names."""
        self._world.spawn(self._summon(vm, self._token(vm, "magic packet", packet)))

    def save(self, vm: str, packet: Seen | None) -> None:
        """Report to vmd that a VM that drains is used."""
        self._world.spawn(self._save(vm, self._token(vm, "packet", packet)))

    def summon_again(self, bridge: WatchedBridge, vm: str) -> None:
        """Have vmd start a VM that it had armed when it died: its clients have their answer, and wait."""
        self._world.spawn(self._summon_again(bridge, vm))

    def write(self, vm: str, values: dict[str, str]) -> None:
        """Write entries into Xenstore."""
        self._entries.write(vm, values)

    def clear(self, vm: str, addresses: Sequence[bytes], after_s: float) -> None:
        """Remove a VM's entries from Xenstore, after a while."""
        self._entries.clear(vm, addresses, after_s)

    def _token(self, vm: str, what: What, packet: Seen | None) -> str:
        """Note who has sent a packet, and return the token of the summon that it causes."""
        if packet is None:
            return ""
        return self._askers.caused(vm, what, described(packet), packet.sender, self._world.clock.now())

    async def _handed_over(self, vm: str) -> None:
        try:
            await self._vmd.call(HandedOver(vm=vm), Done, REPORT_TIMEOUT_S)
        except JitsuError as error:
            log.warning("cannot report to vmd that the guest is there", vm=vm, reason=str(error))

    async def _wake(self, bridge: WatchedBridge, vm: str, token: str) -> None:
        """Once the VM is ready, it gets what was kept even if nobody has armed it."""
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic", by=token), Summoned, WAKE_TIMEOUT_S)
        except JitsuError as error:
            log.info("not woken by traffic", vm=vm, reason=str(error))
            bridge.perform(bridge.addresses.not_woken(vm, self._world.clock.now()))
        else:
            bridge.perform(bridge.addresses.unwatch(vm, self._world.clock.now(), runs=True))

    async def _summon(self, vm: str, token: str) -> None:
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic", by=token), Summoned, WAKE_TIMEOUT_S)
        except JitsuError as error:
            log.info("not woken by a magic packet", vm=vm, reason=str(error))

    async def _summon_again(self, bridge: WatchedBridge, vm: str) -> None:
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic"), Summoned, WAKE_TIMEOUT_S)
        except JitsuError as error:
            log.warning("a VM that was about to start when vmd died was not started", vm=vm, reason=str(error))
            bridge.perform(bridge.addresses.disarm(vm, "failed", self._world.clock.now()))

    async def _save(self, vm: str, token: str) -> None:
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic", by=token), Summoned, REPORT_TIMEOUT_S)
        except JitsuError as error:
            log.info("cannot report to vmd that a draining VM is used", vm=vm, reason=str(error))
