"""What the mock hypervisors have in common: the client of the host process (host.py), which it starts if there is none.

The host process keeps the guests, so that they outlive vmd, as real VMs do.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import JitsuError, SetupFault, TimedOut, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.service_manager import lifeline
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.hypervisors.mock.messages import (
    SOCKET,
    TOPIC,
    GuestInfo,
    Guests,
    ListGuests,
    StartMockGuest,
    StopMockGuest,
)
from jitsu_vmd.hypervisors.shared.examine import examined
from jitsu_vmd.hypervisors.shared.rules.spec import mock_spec
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Followed, Snapshot, World
    from jitsu_vmd.hypervisors.mock.messages import StopHow
    from jitsu_vmd.hypervisors.shared.rules.spec import MockSpec

CALL_LIMIT_S = 5.0
START_STOP_LIMIT_S = 30.0
"""Added to the time that the guest's own keys make it take: a hundred guests that are made at once wait in turn."""
SPAWN_LIMIT_S = 10.0
WATCH_S = 0.5
FEW = 1000
"""Up to this many guests are asked for by their UUIDs; for more, all are listed."""

log = structlog.get_logger("loopback")


class MockHypervisor(ABC):
    """A mock hypervisor: the host process, and what vmd asks of it."""

    name = "mock"

    def __init__(self, world: World, uri: str = "") -> None:
        """`uri` is the directory of a host process that others run, perhaps on another machine; empty: vmd starts one.

        A URI that is not a path was meant for another kind.
        """
        self._world = world
        self._is_others = uri.startswith("/")
        self.directory = Path(uri) if self._is_others else world.settings.bus.directory
        self._client = world.connect(f"ipc://{self.directory}/{SOCKET}.rpc", "mock hypervisor")
        self._feed: Followed | None = None
        self.host_process: subprocess.Popen[bytes] | None = None

    async def open(self) -> None:
        """Start the host process if there is none."""
        if (self.directory / f"{SOCKET}.rpc").exists() and await self._answers():
            log.info("mock hypervisor found running")
            await self._prepare()
            return
        if self._is_others:
            raise Unavailable(f"no mock hypervisor runs in {self.directory}")
        self._spawn()
        for _ in range(int(SPAWN_LIMIT_S / 0.1)):
            if await self._answers(0.1):
                await self._prepare()
                return
        raise SetupFault("the mock hypervisor's host process does not start", hint="see its log above")

    async def run(self, changed: Callable[[str], None]) -> None:
        """Follow the host's feed, and start the host again if it dies."""

        async def ask() -> Snapshot:
            guests = await self._client.call(ListGuests(uuids=[]), Guests, CALL_LIMIT_S)
            return guests.epoch, guests.number, None

        def apply(item: FeedItem) -> None:
            changed(str((item.body or {}).get("uuid", "")))

        if self._feed is None:
            endpoint = f"ipc://{self.directory}/{SOCKET}.feed"
            self._feed = self._world.subscribe(endpoint, TOPIC, ask=ask, reset=lambda _: changed(""), apply=apply)
        while True:
            await asyncio.sleep(WATCH_S)
            if not self._is_others and not self._feed.is_live() and not await self._answers():
                log.warning("mock hypervisor is gone, and its guests with it; starting it again")
                self._spawn()
                await self._prepare_again()

    @abstractmethod
    async def _prepare(self) -> None:
        """Have the host make what guests of this kind need; raises JitsuError."""

    async def _prepare_again(self) -> None:
        try:
            if await self._answers(SPAWN_LIMIT_S):
                await self._prepare()
        except JitsuError as error:
            log.warning("mock hypervisor is not as it should be", reason=str(error))

    @abstractmethod
    def check(self, vm: VM) -> None:
        """Raise Refused if the guest cannot be what its keys say.

        A key that only other kinds can honour has no effect here: `examine` says so, and no start is refused for it.
        """

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect. A disk that is configured all the same is one only in name."""
        return {vm.uuid: examined(vm, self._check_keys, writes_to_disk="disk" in vm.config) for vm in vms}

    @abstractmethod
    def _check_keys(self, vm: VM) -> None:
        """Raise Refused if a VM has a key that has no effect, or names a bridge that is not there."""

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """List these guests."""
        uuids = [vm.uuid for vm in vms] if len(vms) <= FEW else None
        listed = await self._client.call(ListGuests(uuids=uuids), Guests, CALL_LIMIT_S)
        off = GuestInfo(state=GuestState.OFF)
        found = {}
        for vm in vms:
            info = listed.guests.get(vm.uuid, off)
            found[vm.uuid] = Guest(info.state, info.up_s, info.reason, nics=self._nics(vm, info.interface))
        return found

    def _nics(self, _: VM, __: str) -> tuple[Nic, ...]:
        """Return the interfaces of a guest; those of the loopback kind have none."""
        return ()

    async def start(self, vm: VM) -> None:
        """Start a guest. A guest that was paused or suspended has no memory: it boots."""
        spec = mock_spec(vm)
        request = StartMockGuest(
            uuid=vm.uuid,
            name=vm.name,
            addresses=[str(address) for address in vm.addresses],
            port=spec.port,
            start_time=spec.start_time_s,
            boot_time=spec.boot_time_s + random.uniform(0.0, spec.boot_jitter_s),
            failure=spec.boot_failure,
            **self._network(vm, spec),
        )
        await self._call(request, request.start_time)

    def _network(self, vm: VM, spec: MockSpec) -> dict[str, Any]:
        """Return the fields of StartMockGuest that say where the guest is; none for a guest on loopback."""
        return {}

    async def discard(self, vm: VM) -> None:
        """Delete what is suspended or paused of a guest."""
        await self._stop(vm, "discard")

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a guest. One that is asked to shut down always does, after its `shutdown_time`."""
        if how is StopMode.SHUTDOWN:
            await self._stop(vm, "shutdown", mock_spec(vm).shutdown_time_s)
        else:
            await self._stop(vm, _HOW[how])

    async def forget(self, vm: VM) -> None:
        """Nothing was made for a guest, and the host process forgets guests that are off by itself."""
        listed = await self._client.call(ListGuests(uuids=[vm.uuid]), Guests, CALL_LIMIT_S)
        states = {info.state for info in listed.guests.values()}
        if states & {GuestState.PAUSED, GuestState.SUSPENDED}:
            raise Unavailable("its saved state is kept by the mock hypervisor")
        await self._stop(vm, "discard")  # that it crashed need not be known any longer

    async def _stop(self, vm: VM, how: StopHow, lasts_s: float = 0.0) -> None:
        await self._call(StopMockGuest(uuid=vm.uuid, how=how, shutdown_time=lasts_s), lasts_s)

    async def _call(self, request: Request, lasts_s: float) -> None:
        try:
            await self._client.call(request, Done, START_STOP_LIMIT_S + lasts_s)
        except TimedOut:
            raise Unavailable("the mock hypervisor does not answer") from None

    async def _answers(self, limit: float = 0.3) -> bool:
        try:
            await self._client.call(ListGuests(uuids=[]), Guests, limit)
        except JitsuError:
            return False
        return True

    def _spawn(self) -> None:
        if self.host_process is not None and self.host_process.poll() is None:
            return
        descriptor = lifeline()
        # A session of its own: what stops vmd, Ctrl-C too, must not stop the guests.
        self.host_process = subprocess.Popen(
            [sys.executable, "-m", "jitsu_vmd.hypervisors.mock.host", "--directory", str(self.directory)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=() if descriptor is None else (descriptor,),
            env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
        )


_HOW: dict[StopMode, StopHow] = {
    StopMode.DESTROY: "destroy",
    StopMode.SUSPEND: "suspend",
    StopMode.PAUSE: "pause",
}
