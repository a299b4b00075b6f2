"""What is written into Xenstore for guests with the original's TCP stack (rules/layout.py)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.clock import sleep
from jitsu_runtime.xenstore import Xenstore
from jitsu_synjitsu.rules.layout import MANAGED, address_path

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from jitsu_runtime.world import World

OWN = "n0"
"""Only domain 0 may read and write (xenstore-chmod(1))."""

log = structlog.get_logger("synjitsu")


class Entries:
    """The entries of all VMs that are armed with `handover = xenstore`."""

    def __init__(self, world: World, managed: Callable[[str], None]) -> None:
        """`managed` is called with each guest that looks after its address itself."""
        self._world = world
        self._managed = managed
        self._xenstore: Xenstore | None = None
        self._watches: dict[str, list[bytes]] = {}
        self._domains: dict[str, int | None] = {}
        self._writes: dict[str, asyncio.Task[None]] = {}

    async def arm(self, vm: str, addresses: Sequence[str], domain: int | None) -> None:
        """Make the addresses' nodes, empty, and watch them; raises Unavailable.

        Asked again it lets the guest, whose domain is known by then, read and write them.
        """
        if self._xenstore is None:
            self._xenstore = Xenstore(self._world.settings.synjitsu.xenstore, self._world.spawn)
        paths = _paths(addresses)
        if vm not in self._watches:
            for path in paths:  # of an earlier boot, if it is there
                await self._xenstore.change({path: None})
            await self._xenstore.change(dict.fromkeys(paths, ""), dict.fromkeys(paths, OWN))
            self._watches[vm] = []
            for path in paths:
                token = await self._xenstore.watch(path, partial(self._changed, vm, path))
                self._watches[vm].append(token)
        if domain is not None and self._domains.get(vm) != domain:
            self._domains[vm] = domain
            await self._allow(self._xenstore, paths, domain)

    @staticmethod
    async def _allow(xenstore: Xenstore, paths: list[str], domain: int) -> None:
        """Let a domain read and write all that is below paths; what comes later inherits that."""
        found = list(paths)
        for path in found:
            found += [f"{path}/{name}" for name in await xenstore.children(path)]
        await xenstore.change({}, dict.fromkeys(found, f"{OWN} b{domain}"))

    def write(self, vm: str, values: dict[str, str]) -> None:
        """Write entries, one after the other for each VM."""
        before = self._writes.get(vm)
        self._writes[vm] = self._world.spawn(self._written(before, values))

    async def _written(self, before: asyncio.Task[None] | None, values: dict[str, str]) -> None:
        if before is not None:
            await before
        if self._xenstore is not None:
            try:
                await self._xenstore.change(values)
            except Unavailable as error:
                log.warning("a connection is not handed over through Xenstore", reason=str(error))

    def clear(self, vm: str, addresses: Sequence[bytes], after_s: float) -> None:
        """Remove all of a VM."""
        self._domains.pop(vm, None)
        before = self._writes.pop(vm, None)
        self._world.spawn(self._cleared(vm, before, addresses, after_s))

    async def _cleared(
        self, vm: str, before: asyncio.Task[None] | None, addresses: Sequence[bytes], after_s: float
    ) -> None:
        if self._xenstore is None:
            return
        for token in self._watches.pop(vm, []):
            await self._xenstore.unwatch(token)
        if before is not None:
            await before
        await sleep(self._world.clock, after_s)
        if vm not in self._watches:  # it was not armed again in the meantime
            with suppress(Unavailable):  # it has gone, and all that was in it
                await self._xenstore.change(dict.fromkeys(_paths([str(ip_address(each)) for each in addresses])))

    def _changed(self, vm: str, path: str) -> None:
        self._world.spawn(self._look(vm, path))

    async def _look(self, vm: str, path: str) -> None:
        if self._xenstore is None:
            return
        with suppress(Unavailable):
            if await self._xenstore.read(path) == MANAGED:
                self._managed(vm)


def _paths(addresses: Sequence[str]) -> list[str]:
    return [address_path(ip_address(each).packed) for each in addresses if ":" not in each]
