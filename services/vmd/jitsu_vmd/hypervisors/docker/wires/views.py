"""What an engine has, as far as it has been asked: its networks, its containers, and what those printed last.

An engine may be told of a container by its id, its name, or by the beginning of its id. A VM that is called `db` must
never be taken for the container whose id begins with db. So a container is looked up, its name is compared, and calls
then name it by its whole id.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import JitsuError, NotFound
from jitsu_vmd.hypervisors.docker.rules import containers
from jitsu_vmd.hypervisors.docker.rules.networks import Network, network
from jitsu_vmd.hypervisors.docker.wires.engine import part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisor import Discovered, Guest
    from jitsu_vmd.hypervisors.docker.rules.containers import Container
    from jitsu_vmd.hypervisors.docker.wires.engine import Engine

FEW = 32
"""Up to this many containers are asked for one by one, each at length; for more, all are listed."""
MAX_LOGS = 1000


class EngineView:
    """What one engine has."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.networks: dict[str, Network] = {}
        self._engine = engine
        self._clock = clock
        self._logs: dict[str, tuple[str, str]] = {}
        """Id of a container that has failed -> when it ended, and what it printed last."""

    async def learn_networks(self) -> None:
        """Ask which networks there are."""
        # Podman names a network's bridge only in its own API.
        found = await self._engine.get("/libpod/networks/json" if self._engine.is_podman else "/networks")
        self.networks = {each.name: each for each in map(network, found)}

    async def listed(self) -> list[Container]:
        """Return all containers, as the list describes them."""
        return [containers.listed(each) for each in await self._engine.get("/containers/json", {"all": "1"})]

    async def found(self, name: str) -> Container | None:
        """Return the container of this name; None if there is none."""
        try:
            found = containers.inspected(await self._engine.get(f"/containers/{part(name)}/json"))
        except NotFound:
            return None
        return found if found.name == name else None  # else its id begins so

    async def named(self, name: str) -> Container:
        """Return the container of this name; raises NotFound."""
        found = await self.found(name)
        if found is None:
            raise NotFound(
                f"the engine has no container {name}",
                hint="`docker ps -a` lists its containers; with the key image, one is made for the VM",
            )
        return found

    async def guests(self, names: Iterable[str]) -> dict[str, Guest]:
        """Look at the containers of these names; those that there are not are missing."""
        wanted = list(names)
        if len(wanted) <= FEW:
            looks = await asyncio.gather(*map(self.found, wanted))
            found = [container for container in looks if container is not None]
        else:
            chosen = set(wanted)
            found = [container for container in await self.listed() if container.name in chosen]
        if any(joined.network not in self.networks for each in found for joined in each.joined):
            await self.learn_networks()
        guests = await asyncio.gather(*map(self._guest, found))
        return dict(zip((container.name for container in found), guests, strict=True))

    async def _guest(self, container: Container) -> Guest:
        printed = await self._log(container) if containers.has_crashed(container) else ""
        return containers.guest(container, self.networks, self._clock.wall(), printed)

    async def _log(self, container: Container) -> str:
        """Return what a container printed last, "" if it was only listed; each end is asked about once."""
        ended_at, known = container.ending.at, self._logs.get(container.id)
        if not ended_at or (known is not None and known[0] == ended_at):
            return known[1] if known is not None else ""
        try:
            printed = containers.log_tail(await self._engine.log(container.id, containers.LOG_LINES))
        except JitsuError as error:
            printed = f"(its log cannot be read: {error})"
        if len(self._logs) >= MAX_LOGS:
            self._logs.clear()
        self._logs[container.id] = (ended_at, printed)
        return printed

    async def discovered(self) -> list[Discovered]:
        """Return all containers as machines that VMs may be configured for."""
        await self.learn_networks()
        return [containers.discovered(each, self.networks) for each in await self.listed()]
