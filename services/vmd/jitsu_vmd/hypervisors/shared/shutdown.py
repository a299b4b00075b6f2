"""Stopping a guest in the way that its `stop_mode` says.

Shutting down has a limit: the guest is asked, and asked again, until it is off or its time is over.
A guest that still boots, or that has just been let run, does not hear that it should shut down. So it is asked every
`ASK_AGAIN_S`. A guest that is not off when its `shutdown_limit` is over is destroyed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from jitsu_protocol.model.errors import Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock

ASK_AGAIN_S = 5.0
WATCH_S = 0.25

log = structlog.get_logger("vmd")


class PowerButton(Protocol):
    """What a hypervisor can do to a guest that is to shut down. Each call raises JitsuError."""

    async def is_off(self, vm: VM) -> bool:
        """Say whether the guest has shut down."""

    async def press(self, vm: VM) -> None:
        """Ask the guest to shut down; raises Unavailable if it may hear it later, Refused if it never will."""

    async def destroy(self, vm: VM) -> None:
        """Stop the guest at once."""


class Stoppable(PowerButton, Protocol):
    """What a hypervisor can do that has all stop modes. Each call raises JitsuError."""

    async def suspend(self, vm: VM) -> None:
        """Save the guest's memory to disk."""

    async def pause(self, vm: VM) -> None:
        """Stop the guest's processors, and keep its memory."""


async def stop(vm: VM, how: StopMode, guests: Stoppable, clock: Clock) -> None:
    """Stop a guest, and return when that is done."""
    match how:
        case StopMode.DESTROY:
            await guests.destroy(vm)
        case StopMode.SHUTDOWN:
            await shut_down(vm, guests, clock)
        case StopMode.SUSPEND:
            await guests.suspend(vm)
        case StopMode.PAUSE:
            await guests.pause(vm)


async def shut_down(vm: VM, button: PowerButton, clock: Clock) -> None:
    """Return when a guest has shut down, or was destroyed because it did not."""
    begun = ask_at = clock.now()
    ends = begun + vm.value("shutdown_limit")
    while not await button.is_off(vm):
        now = clock.now()
        if now >= ends:
            log.warning("the guest did not shut down in time and was destroyed", vm=vm.name)
            await button.destroy(vm)
            return
        if now >= ask_at:
            ask_at = now + ASK_AGAIN_S
            try:
                async with asyncio.timeout(ends - now):
                    await button.press(vm)
            except Unavailable as error:
                log.info("cannot be asked to shut down yet", vm=vm.name, reason=str(error))
            except (Refused, TimeoutError) as error:
                reason = str(error) or "it has not answered in time"
                took = round(clock.now() - begun, 1)
                log.warning("the guest did not shut down and was destroyed", vm=vm.name, after_s=took, reason=reason)
                await button.destroy(vm)
                return
            continue  # it may be off already
        await _pause(clock)


async def _pause(clock: Clock) -> None:
    woken = asyncio.Event()
    clock.call_in(WATCH_S, woken.set)
    await woken.wait()
