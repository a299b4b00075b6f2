"""A thin client of Docker's API, which Podman offers too: a dozen calls over HTTP, on a Unix socket or TCP.

Calls that change something have connections of their own, so that looking goes on while they wait for an engine that
hangs. Each call has a limit, and no more of an answer is read than there may reasonably be.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jitsu_protocol.model.errors import NotFound, Refused, Unavailable
from jitsu_vmd.hypervisors.docker.rules.endpoint import MAC_OF_ENDPOINT, api_version, is_podman
from jitsu_vmd.hypervisors.shared.http import HttpServers
from jitsu_vmd.hypervisors.shared.rules.texts import one_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from jitsu_vmd.hypervisors.docker.rules.endpoint import Endpoint

LOOK_LIMIT_S = 10.0
MAX_CALLS = 64
"""As many calls that change something are under way at once; dockerd itself starts one container after the other."""
MAX_LOOKS = 16
MAX_ANSWER_BYTES = 128 << 20
"""The list of ten thousand containers has 20 MB."""
MAX_EVENT_BYTES = 1 << 20
NO_QUERY: Mapping[str, str] = MappingProxyType({})


class Engine:
    """An engine, as long as this process runs."""

    def __init__(self, where: Endpoint, name: str) -> None:
        self.version = (0, 0)
        self.is_podman = False
        self._name = name
        self._looks, self._calls = (HttpServers([where.base], where.socket, name) for _ in range(2))

    async def connect(self, tls: ssl.SSLContext | None = None) -> None:
        """Find out which version is spoken; raises SetupFault if none can be, Unavailable if the engine is away."""
        for servers, limit in ((self._looks, MAX_LOOKS), (self._calls, MAX_CALLS)):
            servers.open("docker", tls, limit)
        answer = self._decoded(await self._send(self._looks, "GET", "/version", LOOK_LIMIT_S, NO_QUERY))
        if not isinstance(answer, dict):
            raise Unavailable(f"{self._name} does not answer as an engine does")
        self.version, self.is_podman = api_version(answer), is_podman(answer)

    @property
    def mac_of_endpoint(self) -> bool:
        """Whether a MAC address belongs to an endpoint here. Podman ignores that of a container, whatever it speaks."""
        return self.is_podman or self.version >= MAC_OF_ENDPOINT

    async def close(self) -> None:
        """Close all connections."""
        for servers in (self._looks, self._calls):
            await servers.close()

    async def get(self, path: str, query: Mapping[str, str] = NO_QUERY) -> Any:
        """Ask for something; raises NotFound or Unavailable."""
        return self._decoded(await self._send(self._looks, "GET", self._path(path), LOOK_LIMIT_S, query))

    async def log(self, container: str, lines: int) -> bytes:
        """Return the end of what a container has printed, as the engine packs it."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        path = self._path(f"/containers/{container}/logs")
        return await self._send(self._looks, "GET", path, LOOK_LIMIT_S, query)

    async def create(self, name: str, body: dict[str, Any], limit_s: float) -> str:
        """Make a container and return its id; raises NotFound, Refused or Unavailable."""
        path = self._path("/containers/create")
        made = self._decoded(await self._send(self._calls, "POST", path, limit_s, {"name": name}, body))
        return str(made["Id"])

    async def change(self, method: str, path: str, limit_s: float, query: Mapping[str, str] = NO_QUERY) -> None:
        """Change something; it is done when this returns. Raises NotFound, Refused or Unavailable."""
        await self._send(self._calls, method, self._path(path), limit_s, query)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens to containers and networks, with {} as soon as that is heard; ends when it is not."""
        wanted = json.dumps({"type": ["container", "network"]})
        heard = self._looks.lines(self._path("/events"), LOOK_LIMIT_S, MAX_EVENT_BYTES, params={"filters": wanted})
        async with aclosing(heard) as lines:
            async for line in lines:
                try:
                    event = json.loads(line or b"{}")
                except (ValueError, RecursionError):
                    return
                if isinstance(event, dict):
                    yield event

    def _path(self, path: str) -> str:
        if path.startswith("/libpod/"):
            return f"/v4.0.0{path}"
        return f"/v{self.version[0]}.{self.version[1]}{path}"

    async def _send(
        self,
        servers: HttpServers,
        method: str,
        path: str,
        limit_s: float,
        query: Mapping[str, str],
        body: dict[str, Any] | None = None,
    ) -> bytes:
        answer = await servers.request(method, path, limit_s, MAX_ANSWER_BYTES, params=query, json=body)
        if answer.status >= 400:
            raise _refusal(answer.status, answer.data)
        return answer.data  # 304, "not modified", is a success: the container is in that state already

    def _decoded(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Unavailable(f"{self._name} does not answer as an engine does") from None


def _refusal(status: int, data: bytes) -> NotFound | Refused | Unavailable:
    """Return an answer of the engine that is not a success as an error, with the engine's own words."""
    try:
        said = json.loads(data)
        text = str(said.get("message") or said.get("cause") or said)
    except (ValueError, AttributeError, RecursionError):
        text = data.decode("utf-8", "replace")
    text = one_line(text)
    if status == 404:
        return NotFound(text or "there is no such thing")
    if status in (400, 401, 403):
        return Refused(f"the engine refuses it: {text}")
    return Unavailable(f"the engine fails with {status}: {text}")


def part(text: str) -> str:
    """Return text as one part of a path."""
    return quote(text, safe="")
