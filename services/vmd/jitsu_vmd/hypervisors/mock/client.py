"""What the mock hypervisors have in common: the client of the host process (host.py), started if there is none."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import JitsuError, SetupFault, TimedOut, Unavailable
from jitsu_protocol.model.vm_keys import KEYS, StopMode
from jitsu_runtime.service_manager import lifeline
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.hypervisors.mock.messages import SOCKET, TOPIC, GuestInfo, Guests, ListGuests, StartGuest, StopGuest
from jitsu_vmd.rules import means
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Snapshot, World

CALL_LIMIT_S = 5.0
START_STOP_LIMIT_S = 30.0
"""Beyond what the guest's own keys make it last: a hundred guests that are made at once wait for each other."""
SPAWN_LIMIT_S = 10.0
WATCH_S = 0.5
FEW = 1000
"""Up to this many guests are asked for by their UUIDs; for more, all are listed."""

log = structlog.get_logger("loopback")


class MockHypervisor:
    """The client of the host process (mock/host.py), which it starts when there is none.

    Others may run it instead, on a machine that is not ours.
    """

    name = "mock"

    def __init__(self, process: World, uri: str = "") -> None:
        """`uri` is the directory of a host process that others run; empty: vmd starts one."""
        self._vmd = process
        self._is_others = uri.startswith("/")  # a URI of another form is for another kind
        self.directory = Path(uri) if self._is_others else process.settings.bus.directory
        self._client = process.connect(f"ipc://{self.directory}/{SOCKET}.rpc", "mock hypervisor")
        self._host: subprocess.Popen[bytes] | None = None

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

        endpoint = f"ipc://{self.directory}/{SOCKET}.feed"
        feed = self._vmd.subscribe(endpoint, TOPIC, ask=ask, reset=lambda _: changed(""), apply=apply)
        while True:
            await asyncio.sleep(WATCH_S)
            if not self._is_others and not feed.is_live() and not await self._answers():
                log.warning("mock hypervisor is gone, and its guests with it; starting it again")
                self._spawn()
                await self._prepare_again()

    async def _prepare(self) -> None:
        """Have the host make what guests of this kind need; raises JitsuError."""

    async def _prepare_again(self) -> None:
        try:
            if await self._answers(SPAWN_LIMIT_S):
                await self._prepare()
        except JitsuError as error:
            log.warning("mock hypervisor is not as it should be", reason=str(error))

    def check(self, vm: VM) -> None:
        """Refuse nothing: what only others can do, a key to wait for, counts for nothing here (`examine` says so)."""

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that count for nothing. Where a disk is configured all the same, it is one only in name."""
        return {vm.uuid: Examined(self._mistake(vm), writes_to_disk="disk" in vm.config) for vm in vms}

    def _mistake(self, vm: VM) -> str:
        return means.of_loopback(vm)

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
        """Start a guest; one that was paused or suspended boots just as well: it has no memory."""
        jitter = _number(vm, "boot_jitter")
        request = StartGuest(
            uuid=vm.uuid,
            name=vm.name,
            addresses=[str(address) for address in vm.addresses],
            port=int(_number(vm, "port")),
            start_time=_number(vm, "start_time"),
            boot_time=_number(vm, "boot_time") + random.uniform(0.0, jitter),
            failure=_failure(vm),
            **self._network(vm),
        )
        await self._call(request, request.start_time)

    async def discard(self, vm: VM) -> None:
        """Delete what is suspended or paused of a guest."""
        await self._stop(vm, "discard", 0.0)

    def _network(self, vm: VM) -> dict[str, Any]:
        """Return what else says where the guest is."""
        return {}

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        match how:
            case StopMode.DESTROY:
                await self._destroy(vm)
            case StopMode.SHUTDOWN:
                await self._shut_down(vm)
            case StopMode.SUSPEND:
                await self._suspend(vm)
            case StopMode.PAUSE:
                await self._pause(vm)

    async def _shut_down(self, vm: VM) -> None:
        """Stop a guest as if by ACPI."""
        await self._stop(vm, "shutdown", _number(vm, "shutdown_time"))

    async def _destroy(self, vm: VM) -> None:
        """Stop a guest at once."""
        await self._stop(vm, "destroy", 0.0)

    async def _suspend(self, vm: VM) -> None:
        """Suspend a guest."""
        await self._stop(vm, "suspend", 0.0)

    async def _pause(self, vm: VM) -> None:
        """Pause a guest."""
        await self._stop(vm, "pause", 0.0)

    async def forget(self, vm: VM) -> None:
        """Nothing was made for a guest; the host forgets by itself those that are off."""
        listed = await self._client.call(ListGuests(uuids=[vm.uuid]), Guests, CALL_LIMIT_S)
        states = {info.state for info in listed.guests.values()}
        if states & {GuestState.PAUSED, GuestState.SUSPENDED}:
            raise Unavailable("its saved state is kept by the mock hypervisor")
        await self._stop(vm, "discard", 0.0)  # that it crashed need not be known any longer

    async def _stop(
        self, vm: VM, how: Literal["destroy", "shutdown", "suspend", "pause", "discard"], lasts: float
    ) -> None:
        await self._call(StopGuest(uuid=vm.uuid, how=how, shutdown_time=lasts), lasts)

    async def _call(self, request: Request, lasts: float) -> None:
        try:
            await self._client.call(request, Done, START_STOP_LIMIT_S + lasts)
        except TimedOut:
            raise Unavailable("the mock hypervisor does not answer") from None

    async def _answers(self, limit: float = 0.3) -> bool:
        try:
            await self._client.call(ListGuests(uuids=[]), Guests, limit)
        except JitsuError:
            return False
        return True

    def _spawn(self) -> None:
        if self._host is not None and self._host.poll() is None:
            return
        descriptor = lifeline()
        # A session of its own: what stops vmd, Ctrl-C too, must not stop the guests.
        self._host = subprocess.Popen(
            [sys.executable, "-m", "jitsu_vmd.hypervisors.mock.host", "--directory", str(self.directory)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=() if descriptor is None else (descriptor,),
            env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
        )


def _number(vm: VM, key: str) -> float:
    return float(vm.config.get(key, (KEYS[key].default,))[0])


def _failure(vm: VM) -> Literal["never", "start", "crash", "hang"]:
    match vm.config.get("boot_failure", ("never",))[0]:
        case "start":
            return "start"
        case "crash":
            return "crash"
        case "hang":
            return "hang"
        case _:
            return "never"
