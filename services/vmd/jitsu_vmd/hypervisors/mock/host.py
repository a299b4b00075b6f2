"""The host of mock guests: a process of its own, so that guests outlive a vmd that dies, as real VMs do.

vmd starts it if there is none (client.py). It ends with the `jitsu up` that it belongs to. Without one, it ends when it
has had neither guests nor callers for `IDLE_S`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Done, Request
from jitsu_protocol.model.errors import BootFailed, Refused, SetupFault, Unavailable
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import feed_server, rpc_server
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.service import EXIT_SETUP, run_loop
from jitsu_runtime.service_manager import on_stop_signals
from jitsu_runtime.settings.schema import LogSettings
from jitsu_vmd.hypervisors.mock import bridges
from jitsu_vmd.hypervisors.mock.bridge import BridgeGuest, Zygote
from jitsu_vmd.hypervisors.mock.guest import LoopbackGuest
from jitsu_vmd.hypervisors.mock.messages import (
    SOCKET,
    TOPIC,
    GuestChanged,
    GuestInfo,
    Guests,
    ListGuests,
    MakeBridge,
    StartMockGuest,
    StopMockGuest,
)
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from jitsu_runtime.bus.feed_server import FeedServer
    from jitsu_runtime.world import Handler

IDLE_S = 30.0
NEVER_S = 1e6
"""The boot time of a guest that is to fail before it is there."""

log = structlog.get_logger("mock")


@dataclass
class _Slot:
    """One VM that is not off."""

    state: GuestState
    reason: str = ""
    started_at: float = 0.0
    guest: LoopbackGuest | BridgeGuest | None = None
    boot: asyncio.Task[None] | None = field(default=None, repr=False)

    def info(self, now: float) -> GuestInfo:
        """Return what is reported to vmd."""
        runs = self.state is GuestState.RUNNING
        return GuestInfo(
            state=self.state,
            up_s=now - self.started_at if runs else None,
            reason=self.reason,
            interface=self.guest.interface if isinstance(self.guest, BridgeGuest) else "",
        )


class MockHost:
    """All guests of one mock hypervisor."""

    def __init__(self, feed: FeedServer) -> None:
        self._feed = feed
        self._boots: set[asyncio.Task[None]] = set()
        self._slots: dict[str, _Slot] = {}
        self._zygote = Zygote()
        self._called_at = SYSTEM_CLOCK.now()
        self._bridges: list[str] = []

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            StartMockGuest: self.start,
            StopMockGuest: self.stop,
            ListGuests: self.list_guests,
            MakeBridge: self.make_bridge,
        }

    async def start(self, request: StartMockGuest) -> Done:
        """Answer StartMockGuest."""
        self._called_at = SYSTEM_CLOCK.now()
        if request.start_time:
            await asyncio.sleep(request.start_time)
        if (slot := self._slots.get(request.uuid)) is not None and slot.state is GuestState.RUNNING:
            return Done()
        if request.failure == "start":
            raise BootFailed("the mock hypervisor refuses to start it (boot_failure = start)")
        if slot is not None and slot.state is GuestState.PAUSED and isinstance(slot.guest, BridgeGuest):
            slot.guest.unpause()
            slot.state = GuestState.RUNNING
            return Done()
        guest = await self._guest_of(request)
        try:
            await guest.prepare()
        except OSError as error:
            raise BootFailed(f"the guest cannot be made: {error.strerror}") from None
        slot = self._slots[request.uuid] = _Slot(GuestState.RUNNING, "", SYSTEM_CLOCK.now(), guest)
        slot.boot = asyncio.create_task(self._boot(request, guest))
        self._boots.add(slot.boot)
        slot.boot.add_done_callback(self._boots.discard)
        return Done()

    async def stop(self, request: StopMockGuest) -> Done:
        """Answer StopMockGuest."""
        self._called_at = SYSTEM_CLOCK.now()
        state = self._state(request.uuid)
        if request.how == "discard":
            return self._discard(request.uuid, state)
        if state is GuestState.PAUSED and request.how == "destroy":
            raise Unavailable("it is paused: it is not destroyed, because its memory would be lost")
        if state is not GuestState.RUNNING:
            return Done()
        if request.how == "shutdown" and request.shutdown_time:
            await asyncio.sleep(request.shutdown_time)
        slot = self._slots[request.uuid]
        if request.how == "pause" and isinstance(slot.guest, BridgeGuest) and slot.guest.pause():
            slot.state = GuestState.PAUSED
            self._feed.publish(TOPIC, GuestChanged(uuid=request.uuid))
            return Done()
        self._power_off(request.uuid, _STOPPED[request.how], "")
        return Done()

    def _discard(self, uuid: str, state: GuestState) -> Done:
        if state is GuestState.RUNNING:
            raise Refused("it runs: its saved state is not discarded", hint="stop it first")
        if state is not GuestState.OFF:
            self._power_off(uuid, GuestState.OFF, "")
        return Done()

    def _state(self, uuid: str) -> GuestState:
        return self._slots[uuid].state if uuid in self._slots else GuestState.OFF

    async def make_bridge(self, request: MakeBridge) -> Done:
        """Answer MakeBridge."""
        self._called_at = SYSTEM_CLOCK.now()
        try:
            await asyncio.to_thread(self.have_bridge, request.name, request.addresses)
        except OSError as error:
            raise Unavailable(f"the bridge {request.name} cannot be made: {error.strerror}") from None
        await self._zygote.warm()
        return Done()

    def have_bridge(self, name: str, addresses: list[str]) -> None:
        """Make a bridge if there is none; raises OSError."""
        if bridges.make_bridge(name, addresses):
            self._bridges.append(name)

    def remove_bridges(self) -> None:
        """Remove the bridges that were made here."""
        for name in self._bridges:
            with suppress(OSError):
                bridges.ip("link", "delete", name)

    def list_guests(self, request: ListGuests) -> Guests:
        """Answer ListGuests."""
        self._called_at = SYSTEM_CLOCK.now()
        feed = self._feed.feeds[TOPIC]
        now = SYSTEM_CLOCK.now()
        wanted = self._slots if request.uuids is None else [uuid for uuid in request.uuids if uuid in self._slots]
        guests = {uuid: self._slots[uuid].info(now) for uuid in wanted}
        return Guests(guests=guests, epoch=feed.epoch, number=feed.number)

    async def until_idle(self) -> None:
        """Return when nobody has needed this process for `IDLE_S`."""
        left = IDLE_S
        while left > 0:
            await asyncio.sleep(left)
            left = self._quiet_left()

    def power_off_all(self) -> None:
        """Stop every guest."""
        for slot in self._slots.values():
            if slot.guest is not None:
                slot.guest.power_off()

    def _quiet_left(self) -> float:
        """Return for how many seconds this process must still run; 0 if nobody needs it any longer."""
        if any(slot.state is GuestState.RUNNING for slot in self._slots.values()):
            return IDLE_S
        return max(0.0, self._called_at + IDLE_S - SYSTEM_CLOCK.now())

    async def _guest_of(self, request: StartMockGuest) -> LoopbackGuest | BridgeGuest:
        if not request.bridge:
            return LoopbackGuest(request.name, request.addresses, request.port, request.boot_time)
        wanted = request.model_dump(exclude={"uuid", "start_time", "failure"})
        if request.failure != "never":
            wanted["boot_time"] = NEVER_S
        return BridgeGuest(self._zygote, wanted)

    async def _boot(self, request: StartMockGuest, guest: LoopbackGuest | BridgeGuest) -> None:
        if request.failure == "crash":
            await asyncio.sleep(request.boot_time)
            self._power_off(request.uuid, GuestState.CRASHED, "the guest crashed (boot_failure = crash)")
        elif request.failure == "never":
            try:
                await guest.boot()
            except OSError as error:
                self._power_off(request.uuid, GuestState.CRASHED, f"the guest cannot boot: {error.strerror}")
                return
            if isinstance(guest, BridgeGuest):
                await guest.end()
                self._power_off(request.uuid, GuestState.CRASHED, "the guest's process has ended by itself")

    def _power_off(self, uuid: str, state: GuestState, reason: str) -> None:
        slot = self._slots.pop(uuid, None)
        if slot is not None and slot.guest is not None:
            slot.guest.power_off()
        if slot is not None and slot.boot is not None and slot.boot is not asyncio.current_task():
            slot.boot.cancel()
        if state is not GuestState.OFF:
            self._slots[uuid] = _Slot(state, reason)
        self._feed.publish(TOPIC, GuestChanged(uuid=uuid))


_STOPPED = {
    "destroy": GuestState.OFF,
    "shutdown": GuestState.OFF,
    "suspend": GuestState.SUSPENDED,
    "pause": GuestState.PAUSED,
}


async def _serve(directory: Path, bridge: str, bridge_addresses: list[str], *, stays: bool) -> int:
    """Run until a signal, the lifeline, or that nobody needs this process; raises SetupFault if another one serves."""
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    context = Context()
    try:
        feed = feed_server(context, f"ipc://{directory}/{SOCKET}.feed", [TOPIC])
        host = MockHost(feed)
        try:
            if bridge and not _has_bridge(host, bridge, bridge_addresses):
                return EXIT_SETUP
            server = rpc_server(context, f"ipc://{directory}/{SOCKET}.rpc", host.handlers())
            (directory / f"{SOCKET}.pid").write_text(str(os.getpid()))
            await _until_one_ends(stop.wait(), feed.run(), server.run(), *(() if stays else (host.until_idle(),)))
        finally:
            host.power_off_all()
            for name in (f"{SOCKET}.pid", f"{SOCKET}.rpc", f"{SOCKET}.feed"):
                with suppress(OSError):
                    (directory / name).unlink()
            host.remove_bridges()
    finally:
        context.destroy(linger=0)
    return 0


def _has_bridge(host: MockHost, name: str, addresses: list[str]) -> bool:
    try:
        host.have_bridge(name, addresses)
    except OSError as error:
        log.error("the bridge cannot be made", bridge=name, reason=error.strerror)
        return False
    return True


async def _until_one_ends(*work: Coroutine[Any, Any, object]) -> None:
    """Run all of these until one ends; raises what that one has raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def main() -> None:
    """Run the host."""
    parser = argparse.ArgumentParser(prog="jitsu-mock-host")
    parser.add_argument("--directory", type=Path, required=True, help="where its sockets are")
    parser.add_argument(
        "--bridge", default="", help="of guests of the bridge kind; made, and removed, if there is none"
    )
    parser.add_argument("--bridge-address", action="append", default=[], help="that the bridge gets when it is made")
    parser.add_argument("--stay", action="store_true", help="even if nobody asks for guests")
    given = parser.parse_args()
    configure_logging(LogSettings.model_validate({}), "mock")
    try:
        sys.exit(run_loop(_serve(given.directory, given.bridge, given.bridge_address, stays=given.stay)))
    except SetupFault:
        sys.exit(2)  # another host has the sockets


if __name__ == "__main__":
    main()
