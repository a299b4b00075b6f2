"""LXD and Incus: instances of one server or of one cluster, by the API that both have. rules/states.py has its words.

A cluster is one hypervisor: whichever member is asked, it passes a request on to the member that has the instance.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import structlog

from jitsu_protocol.model.errors import JitsuError, NotFound, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import OTHERS, Discovered, Examined, Guest
from jitsu_vmd.hypervisors.lxd.rules import connect, instances, keys
from jitsu_vmd.hypervisors.lxd.rules.states import not_heard, state_of
from jitsu_vmd.hypervisors.lxd.wires.calls import InstanceCalls
from jitsu_vmd.hypervisors.lxd.wires.client import LxdClient
from jitsu_vmd.hypervisors.lxd.wires.cluster import Cluster
from jitsu_vmd.hypervisors.lxd.wires.making import Making
from jitsu_vmd.hypervisors.shared.shutdown import stop
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World

RETRY_S = 1.0
DISCOVER_LIMIT_S = 60.0

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Lxd:
    """Return the server or the cluster of a connection."""
    return Lxd(world, connection)


def usual_socket(kind: str) -> str:
    """Return the path of a server's socket on this host."""
    if directory := os.environ.get(connect.DIRECTORIES[kind], ""):
        return str(Path(directory, "unix.socket"))
    usual = connect.USUAL_SOCKETS[kind]
    return next((path for path in usual if os.path.exists(path)), usual[-1])


class Lxd:
    """The instances of a server, or of a cluster."""

    def __init__(self, world: World, connection: HypervisorConnection) -> None:
        kind = connection.kind.value
        self._clock = world.clock
        self._address = connect.address_of(connection.uri, usual_socket(kind))
        self.name = f"{'Incus' if kind == 'incus' else 'LXD'} ({self._address})"
        self._client = LxdClient(connection, self._address)
        self.cluster = Cluster(self._client)
        self._making = Making(self._client, self.cluster, world.spawn)
        self._calls = InstanceCalls(self._client, self.cluster, self._making, world.clock)
        self._uuids: dict[str, str] = {}
        """Name of an instance -> uuid of the VM that was looked at last under this name."""

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if LXD cannot do what a VM's keys ask for."""
        keys.check(vm)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that have no effect, and for instances and images that are not there."""
        found = await self._records([vm.name for vm in vms])
        return {vm.uuid: Examined(await self._mistake(vm, found.get(vm.name)), writes_to_disk=True) for vm in vms}

    async def _mistake(self, vm: VM, instance: dict[str, Any] | None) -> str:
        try:
            keys.check_unused(vm)
            if vm.stop_mode is StopMode.SUSPEND:
                self._calls.check_suspend(instance)
            if instance is not None:
                instances.check_owner(vm, instance)
            elif keys.is_made(vm):
                await self._making.check_image(vm)
            else:
                raise _absent(vm)
        except JitsuError as mistake:
            return str(mistake)
        return ""

    # --- looking ---

    async def open(self) -> None:
        """Connect."""
        self._client.load()
        try:
            await self.cluster.greet()
        except JitsuError:
            await self._client.close()
            raise
        log.info("connected", hypervisor=self.name, server=self.cluster.server, members=len(self.cluster.members))

    async def run(self, changed: Callable[[str], None]) -> None:
        """Follow the events of all members, and connect again when the connection ends."""
        try:
            while True:
                try:
                    async for event in self._client.events():
                        self._happened(event, changed)
                except JitsuError as error:
                    log.debug("no events from LXD", reason=str(error))
                await asyncio.sleep(RETRY_S)
                with suppress(JitsuError):
                    await self.cluster.greet()
        finally:
            await self._client.close()

    def _happened(self, event: dict[str, Any], changed: Callable[[str], None]) -> None:
        metadata = event.get("metadata")
        if not isinstance(metadata, dict):
            changed("")  # events are heard from now on: what was before may have been missed
            return
        action = str(metadata.get("action") or "")
        if action.startswith("cluster-member-"):
            changed("")
        elif action.startswith("instance-"):
            name = unquote(str(metadata.get("source") or "").partition("?")[0].rpartition("/")[2])
            if name in self._uuids:  # nothing is kept of others, which may come and go all the time
                self.cluster.located(name, event.get("location"))
            changed(self._uuids.get(name, OTHERS))

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at the instances of these VMs."""
        self._uuids |= {vm.name: vm.uuid for vm in vms}
        await self.cluster.refresh_members()
        found: dict[str, dict[str, Any]] = {}
        unseen: dict[str, str] = {}

        def take(name: str, record: dict[str, Any] | Unavailable) -> None:
            if isinstance(record, Unavailable):
                unseen[name] = str(record)
            else:
                found[name] = record

        await self.cluster.each([vm.name for vm in vms], take)
        self._making.wanted([vm for vm in vms if vm.name not in unseen], found)
        guests = {vm.uuid: self._guest(vm, found[vm.name]) for vm in vms if vm.name in found}
        return guests | {vm.uuid: Guest(unseen=unseen[vm.name]) for vm in vms if vm.name in unseen}

    def _guest(self, vm: VM, instance: dict[str, Any]) -> Guest:
        state = state_of(instance, self.cluster.members)
        nics = instances.nics(instance, is_here=self._is_here(instance))
        if state.guest is None:
            return Guest(nics=nics, unseen=state.unseen)
        note = self._calls.note(vm, instance) if state.guest is GuestState.SUSPENDED else ""
        return Guest(state.guest, note=note, nics=nics)

    def _is_here(self, instance: dict[str, Any]) -> bool:
        return self.cluster.is_here(instance, by_socket=bool(self._address.socket))

    async def _records(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}

        def take(name: str, record: dict[str, Any] | Unavailable) -> None:
            if not isinstance(record, Unavailable):
                found[name] = record

        await self.cluster.each(names, take)
        return found

    def notes(self) -> list[str]:
        """Return which members of the cluster are not heard."""
        return not_heard(self.cluster.members)

    async def discover(self) -> Sequence[Discovered]:
        """Return all instances, with the addresses that they have now."""
        found: list[Discovered] = []

        def take(record: dict[str, Any]) -> None:
            if isinstance(record.get("name"), str):
                found.append(instances.discovered(record, is_here=self._is_here(record)))

        await self.cluster.list_all(DISCOVER_LIMIT_S, take)
        return found

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let an instance run: it boots, continues, or is restored."""
        await self._calls.start(vm)

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop an instance."""
        await stop(vm, how, self._calls, self._clock)

    async def discard(self, vm: VM) -> None:
        """Delete what an instance keeps of its memory."""
        await self._calls.discard(vm)

    async def forget(self, vm: VM) -> None:
        """Delete the instance that was made for a VM, unless that would lose anything."""
        if self._uuids.get(vm.name) == vm.uuid:
            del self._uuids[vm.name]
        if keys.is_made(vm):
            await self._making.forget(vm)


def _absent(vm: VM) -> NotFound:
    return NotFound(f"LXD has no instance {vm.name}", hint="`lxc list` shows those that it has; or use image")
