"""XAPI (XenAPI), of XenServer and XCP-ng: VMs that a pool has already.

Calls block, so each runs on a thread with a session of its own (sessions.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import JitsuError, NotFound, Refused, Unavailable
from jitsu_vmd.hypervisor import OTHERS, Examined
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.hypervisors.shared.threads import Threads
from jitsu_vmd.hypervisors.xapi import rules
from jitsu_vmd.hypervisors.xapi.discovery import machines
from jitsu_vmd.hypervisors.xapi.pool import Pool
from jitsu_vmd.hypervisors.xapi.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Discovered, Guest

LOOK_LIMIT_S, OPEN_LIMIT_S, LIST_LIMIT_S = 10.0, 15.0, 4.0
EVENT_WAIT_S = 30.0
RETRY_S = 1.0

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Xapi:
    """Return XAPI at an address."""
    return Xapi(world, connection)


class Xapi:
    """The VMs of one pool."""

    def __init__(self, world: World, connection: HypervisorConnection) -> None:
        self.name = f"XAPI ({connection.uri})"
        self._clock = world.clock
        self._sessions = Sessions(connection)
        self._pool = Pool(self._sessions)
        self._threads = Threads(self.name, self._sessions.translating)

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if XAPI cannot do what a VM's keys ask for."""
        rules.check(vm)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for VMs that the pool does not have."""
        otherwise = f"{self._sessions.uri} does not answer"
        return await self._threads.within(LOOK_LIMIT_S, otherwise, lambda: {vm.uuid: self._examine(vm) for vm in vms})

    def _examine(self, vm: VM) -> Examined:
        records = self._pool.find(vm)
        writes_to_disk = len(records) == 1 and self._pool.writes_to_disk(records[0][1])
        try:
            rules.check_one(vm, len(records))
            rules.check_keys(vm)
        except JitsuError as mistake:
            return Examined(str(mistake), writes_to_disk)
        return Examined(writes_to_disk=writes_to_disk)

    # --- looking ---

    async def open(self) -> None:
        """Log in."""
        self._sessions.load()
        await self._threads.within(OPEN_LIMIT_S, f"{self._sessions.uri} does not answer", self._sessions.mine)
        log.info("connected", hypervisor=self.name)

    async def run(self, changed: Callable[[str], None]) -> None:
        """Follow XAPI's events."""
        token = ""
        while True:
            try:
                token, refs = await self._threads.run(partial(self._next_events, token))
            except JitsuError as error:
                log.debug("no events from XAPI", reason=str(error))
                token = ""
                await asyncio.sleep(RETRY_S)
                changed("")
                continue
            for ref in refs:
                self._pool.changed(ref)
                changed(self._pool.refs.get(ref, OTHERS))

    def _next_events(self, token: str) -> tuple[str, set[str]]:
        answer = self._sessions.mine().xenapi.event_from(["vm"], token, EVENT_WAIT_S)
        return str(answer["token"]), {str(event["ref"]) for event in answer["events"]}

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs."""
        return await self._threads.look(LOOK_LIMIT_S, lambda: self._pool.guests(list(vms)))

    async def discover(self) -> Sequence[Discovered]:
        """Return all VMs of the pool."""
        otherwise = f"{self._sessions.uri} does not answer"
        return await self._threads.within(LIST_LIMIT_S, otherwise, lambda: machines(self._sessions))

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a VM run: continue it if it is paused, restore its suspend image, or boot it.

        An image is restored paused, so that the guest does not run before XAPI has noted that the image is used.
        """

        def begin(calls: Any, ref: str) -> None:
            match calls.get_power_state(ref):
                case "Halted":
                    calls.start(ref, False, False)
                case "Suspended":
                    calls.resume(ref, True, False)
                    calls.unpause(ref)
                case "Paused":
                    calls.unpause(ref)

        await self._on_vm(vm, begin)

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        await stop(vm, how, self, self._clock)

    async def suspend(self, vm: VM) -> None:
        """Save a VM's memory to disk."""
        await self._on_vm(vm, lambda calls, ref: calls.suspend(ref))

    async def pause(self, vm: VM) -> None:
        """Stop a VM's processors."""
        await self._on_vm(vm, lambda calls, ref: calls.pause(ref))

    async def is_off(self, vm: VM) -> bool:
        """Say whether a VM is halted."""
        return bool(await self._on_vm(vm, lambda calls, ref: calls.get_power_state(ref)) == "Halted")

    async def press(self, vm: VM) -> None:
        """Ask the guest to shut down; XAPI returns when it has. A guest that XAPI cannot ask is not asked again."""
        try:
            await self._on_vm(vm, lambda calls, ref: calls.clean_shutdown(ref))
        except NotFound:
            raise
        except JitsuError as error:
            raise Refused(error.message, hint=error.hint) from None

    async def destroy(self, vm: VM) -> None:
        """Stop a VM that runs, at once; what XAPI calls VM.destroy would remove it."""

        def halt(calls: Any, ref: str) -> None:
            match calls.get_power_state(ref):
                case "Running":
                    calls.hard_shutdown(ref)
                case "Paused":
                    raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")

        with suppress(NotFound):
            await self._on_vm(vm, halt)

    async def discard(self, vm: VM) -> None:
        """Halt a VM that is paused or suspended; its suspend image goes with that."""

        def halt(calls: Any, ref: str) -> None:
            state = calls.get_power_state(ref)
            if state == "Running":
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            if state != "Halted":
                calls.hard_shutdown(ref)

        await self._on_vm(vm, halt)

    async def forget(self, vm: VM) -> None:
        """Nothing was made for a VM."""

    async def _on_vm(self, vm: VM, work: Callable[[Any, str], Any]) -> Any:
        """Run work on a thread with XAPI's calls on VMs, and its reference of this one."""
        return await self._threads.run(lambda: work(self._sessions.mine().xenapi.VM, self._pool.ref(vm)))
