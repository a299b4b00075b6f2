"""docker: containers of Docker or Podman, those that are there already and those that are made for VMs.

Events say what happens to containers. When their stream ends, it is opened again, and all VMs are looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import BootFailed, JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import sleep
from jitsu_vmd.hypervisor import OTHERS, Examined
from jitsu_vmd.hypervisors.docker.rules import keys
from jitsu_vmd.hypervisors.docker.rules.containers import Container
from jitsu_vmd.hypervisors.docker.rules.creation import MADE_OF, request
from jitsu_vmd.hypervisors.docker.rules.endpoint import DEFAULT_URI, endpoint
from jitsu_vmd.hypervisors.docker.rules.networks import network_of
from jitsu_vmd.hypervisors.docker.rules.possible import check_container
from jitsu_vmd.hypervisors.docker.wires.engine import NO_QUERY, Engine, part
from jitsu_vmd.hypervisors.docker.wires.views import EngineView
from jitsu_vmd.hypervisors.shared.shutdown import shut_down
from jitsu_vmd.hypervisors.shared.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorConnection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Discovered, Guest
    from jitsu_vmd.hypervisors.docker.rules.networks import Network

CALL_LIMIT_S = 60.0
"""A start, a kill or a pause takes less than a second, if the engine has time for it."""
RETRY_S = 1.0
SETTLED_S = 10.0
"""A container that has been running for that long has set up its signals."""
NOTHING_CHANGED = ("exec_", "health_status", "top", "attach", "resize", "archive-path", "copy", "export", "commit")
"""Events of containers that begin so say nothing about their state."""

log = structlog.get_logger("vmd")


def make(world: World, connection: HypervisorConnection) -> Docker:
    """Return the engine at a URI."""
    return Docker(world, connection)


class Docker:
    """The containers of one engine."""

    def __init__(self, world: World, connection: HypervisorConnection) -> None:
        self._world = world
        self._uri = connection.uri or DEFAULT_URI
        self.name = f"docker ({self._uri})"
        self._connection = connection
        self._where = endpoint(self._uri, uses_tls=bool(connection.credentials.files))
        self._engine = Engine(self._where, self.name)
        self._view = EngineView(self._engine, world.clock)
        self._is_closed_at_end = False
        self._asked: set[str] = set()
        """Ids of containers that have surely heard that they should end."""
        self._vms: dict[str, str] = {}
        """Name of a container -> uuid of its VM."""

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if no container can do what a VM's keys ask for."""
        keys.check(vm)

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for containers, images and networks that are not there, and for keys that have no effect."""
        await self._view.learn_networks()
        return dict(zip((vm.uuid for vm in vms), await asyncio.gather(*map(self._examine, vms)), strict=True))

    async def _examine(self, vm: VM) -> Examined:
        writes_to_disk = keys.is_made(vm) and bool(vm.config.get("disk"))
        try:
            keys.check(vm)
            keys.check_unused(vm)
            if keys.is_made(vm):
                request(vm, network_of(vm, self._view.networks.values()), mac_of_endpoint=self._engine.mac_of_endpoint)
                await self._check_image(vm)
            else:
                container = await self._view.named(keys.container_name(vm))
                writes_to_disk = container.has_writable_mounts
                check_container(vm, container, is_podman=self._engine.is_podman)
        except (NotFound, Refused) as mistake:
            return Examined(str(mistake), writes_to_disk)
        return Examined(writes_to_disk=writes_to_disk)

    async def _check_image(self, vm: VM) -> None:
        image = vm.key("image")
        try:
            await self._engine.get(f"/images/{part(image)}/json")
        except NotFound:
            raise Refused(f"image: the engine has no image {image}; `docker pull {image}` fetches it") from None

    # --- looking ---

    async def open(self) -> None:
        """Connect."""
        if not self._is_closed_at_end:
            self._is_closed_at_end = True
            self._world.spawn(self._closing(), f"connections with {self.name}")
        await self._connect()

    async def _connect(self) -> None:
        await self._engine.connect(client_context(self._connection) if self._where.uses_tls else None)
        await self._view.learn_networks()
        version = ".".join(map(str, self._engine.version))
        log.info("connected", hypervisor=self.name, api=version, is_podman=self._engine.is_podman)

    async def _closing(self) -> None:
        """Close the connections when this process ends."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._engine.close()

    async def run(self, changed: Callable[[str], None]) -> None:
        """Report what happens to containers; when that is not heard, connect again and have all looked at."""
        is_first = True
        while True:
            async for event in self._engine.events():
                if event:
                    await self._happened(event, changed)
                elif not is_first:
                    changed("")
            is_first = False
            await sleep(self._world.clock, RETRY_S)
            try:
                await self._connect()
            except JitsuError as error:
                log.debug("the engine is away", hypervisor=self.name, reason=str(error))

    async def _happened(self, event: dict[str, Any], changed: Callable[[str], None]) -> None:
        if event.get("Type") == "network":
            try:
                await self._view.learn_networks()
            except JitsuError as error:
                log.debug("cannot list the engine's networks", hypervisor=self.name, reason=str(error))
            return
        if str(event.get("Action") or "").startswith(NOTHING_CHANGED):
            return
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        names = (attributes.get("name"), str(attributes.get("oldName") or "").lstrip("/"))
        for uuid in [self._vms[name] for name in names if name in self._vms] or [OTHERS]:
            changed(uuid)

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at the containers of these VMs."""
        names = {vm.uuid: name for vm in vms if (name := _name_of(vm))}
        self._vms |= {name: uuid for uuid, name in names.items()}
        found = await self._view.guests(names.values())
        return {uuid: found[name] for uuid, name in names.items() if name in found}

    async def discover(self) -> Sequence[Discovered]:
        """Return all containers; their labels `jitsu.KEY` are keys of a VM."""
        return await self._view.discovered()

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a container run: continue it if it is paused, else start it, or make it first."""
        container = await self._made(vm) if keys.is_made(vm) else await self._view.named(keys.container_name(vm))
        if container.is_paused:
            await self._do(container, "unpause")
        elif not container.is_running:
            try:
                await self._do(container, "start", max(CALL_LIMIT_S, vm.boot_limit))
            except (Refused, NotFound) as error:
                raise BootFailed(str(error)) from None

    async def _made(self, vm: VM) -> Container:
        """Return the container that is made for a VM, made now if there is none or if it is of something else."""
        body = request(vm, self._network(vm), mac_of_endpoint=self._engine.mac_of_endpoint)
        name = keys.container_name(vm)
        found = await self._view.found(name)
        if found is not None:
            if found.made_for != vm.uuid:
                raise BootFailed(
                    f"the engine has a container {name} already, which was not made for this VM",
                    hint="remove the key image to use it, or give another name with the key container",
                )
            if found.is_running or found.is_paused or found.made_of == body["Labels"][MADE_OF]:
                return found
            await self._engine.change("DELETE", f"/containers/{found.id}", CALL_LIMIT_S)
        try:
            made = await self._engine.create(name, body, CALL_LIMIT_S)
        except NotFound as error:
            image = vm.key("image")
            raise BootFailed(error.message, hint=f"`docker pull {image}` fetches an image") from None
        except Refused as error:
            raise BootFailed(str(error)) from None
        return Container(made, name, "created")

    def _network(self, vm: VM) -> Network | None:
        try:
            return network_of(vm, self._view.networks.values())
        except Refused as refused:
            raise BootFailed(str(refused)) from None

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a container: kill it, have the engine ask its first process to end, or freeze it."""
        if how is StopMode.SUSPEND:
            raise Refused(f"{vm.name} cannot be suspended: containers are not saved to disk", hint="stop_mode = pause")
        try:
            container = await self._view.named(keys.container_name(vm))
        except NotFound:
            if how is StopMode.PAUSE:
                raise
            return
        if how is StopMode.PAUSE:
            if not container.is_paused:
                await self._do(container, "pause")
        elif container.is_paused:
            raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")
        elif container.is_running and how is StopMode.SHUTDOWN:
            self._asked.discard(container.id)
            await shut_down(vm, self, self._world.clock)
        elif container.is_running:
            await self._kill(container)

    async def is_off(self, vm: VM) -> bool:
        """Say whether a container has ended."""
        container = await self._view.found(keys.container_name(vm))
        return container is None or not (container.is_running or container.is_paused)

    async def press(self, vm: VM) -> None:
        """Send the container's stop signal, as `docker stop` does; again only if it had just been started.

        A process that has not set up its signals yet does not hear it, if it is the first one (pid_namespaces(7)). To
        many programs a second signal means to give up what they are doing.
        """
        container = await self._view.named(keys.container_name(vm))
        if container.id in self._asked:
            return
        if container.started_at is None or self._world.clock.wall() - container.started_at > SETTLED_S:
            self._asked.add(container.id)
        await self._do(container, "kill", query={"signal": container.stop_signal})

    async def destroy(self, vm: VM) -> None:
        """Kill a container that has not ended."""
        await self._kill(await self._view.named(keys.container_name(vm)))

    async def discard(self, vm: VM) -> None:
        """Kill a paused container: its memory is its saved state."""
        container = await self._view.found(keys.container_name(vm))
        if container is not None and container.is_running:
            raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
        if container is not None and container.is_paused:
            await self._kill(container)

    async def forget(self, vm: VM) -> None:
        """Remove the container that was made for a VM; one that others made stays."""
        name = _name_of(vm)
        self._vms.pop(name, None)
        container = await self._view.found(name) if name else None
        if container is None:
            return
        if container.is_paused:
            raise Unavailable("its container is kept: it is paused", hint=f"docker kill {name}; docker rm {name}")
        if container.made_for != vm.uuid:
            return
        if container.is_running:
            raise Unavailable("its container is kept: it runs", hint=f"docker rm --force {name}")
        await self._engine.change("DELETE", f"/containers/{container.id}", CALL_LIMIT_S)

    async def _kill(self, container: Container) -> None:
        """End a container at once; one that has ended in the meantime is fine."""
        try:
            await self._do(container, "kill")
        except (Unavailable, NotFound):
            found = await self._view.found(container.name)
            if found is not None and (found.is_running or found.is_paused):
                raise

    async def _do(
        self, container: Container, call: str, limit_s: float = CALL_LIMIT_S, query: Mapping[str, str] = NO_QUERY
    ) -> None:
        await self._engine.change("POST", f"/containers/{container.id}/{call}", limit_s, query)


def _name_of(vm: VM) -> str:
    """Return the name of a VM's container, "" if no container can have it."""
    try:
        return keys.container_name(vm)
    except Refused:
        return ""
