"""The taps of guests: taken for a start, perhaps reserved shortly before it, and given back at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisors.solo5.wires.tap_pool import TapPool

RESERVED_S = 5.0
"""A start comes once Synjitsu has answered, within a second."""


@dataclass(frozen=True)
class Taken:
    """The taps of one guest."""

    taps: list[str]
    user: int
    bridges: list[str]
    since: float = 0.0


class GuestTaps:
    """Takes taps out of the pool, and gives them back."""

    def __init__(self, pool: TapPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._reserved: dict[str, Taken] = {}
        """uuid of a VM -> the taps that are taken for its next start."""

    async def reserve(self, vm: str, user: int, bridges: list[str]) -> list[str]:
        """Take the taps of a VM's next start, and return their names; raises BootFailed."""
        taken = await self.take(vm, user, bridges)
        self._reserved[vm] = Taken(taken, user, bridges, self._clock.now())
        return taken

    async def take(self, vm: str, user: int, bridges: list[str]) -> list[str]:
        """Return the taps that were reserved for a start, or take others; raises BootFailed."""
        reserved = self._reserved.pop(vm, None)
        if reserved is not None and (reserved.user, reserved.bridges) == (user, bridges):
            return reserved.taps
        if reserved is not None:
            await self.release(reserved)
        taken: list[str] = []
        try:
            for bridge in bridges:
                taken.append(await self._pool.take(user, bridge))
        except BootFailed:
            await self.release(Taken(taken, user, bridges[: len(taken)]))
            raise
        return taken

    async def release(self, taken: Taken) -> None:
        """Give back the taps of a guest that has ended, or was not started."""
        await self._pool.release(taken.taps, taken.user, taken.bridges)

    async def release_unused(self) -> None:
        """Give back the taps of starts that have not come."""
        until = self._clock.now() - RESERVED_S
        for vm in [vm for vm, each in self._reserved.items() if each.since < until]:
            await self.release(self._reserved.pop(vm))
