"""A thin client of Docker's API, which Podman offers too: a dozen calls over HTTP, on a Unix socket or TCP.

Calls that change something have connections of their own, so that looking goes on while they wait for an engine that
hangs. Each call has a limit, and no more of an answer is read than there may reasonably be.
"""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jitsu_protocol.model.errors import NotFound, Refused, SetupFault, Unavailable
from jitsu_vmd.hypervisors.docker.rules.endpoint import api_version, is_podman

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
MAX_MESSAGE_CHARACTERS = 500
NO_QUERY: Mapping[str, str] = MappingProxyType({})


class Engine:
    """An engine, as long as this process runs."""

    def __init__(self, where: Endpoint, name: str) -> None:
        self.version = (0, 0)
        self.is_podman = False
        self._where = where
        self._name = name
        self._looks: Any = None
        self._calls: Any = None

    async def connect(self, tls: ssl.SSLContext | None = None) -> None:
        """Find out which version is spoken; raises SetupFault if none can be, Unavailable if the engine is away."""
        try:
            import aiohttp
        except ImportError:
            raise SetupFault("aiohttp is not installed", hint='pip install "jitsu-vmd[docker]"') from None
        if self._looks is None:
            self._looks, self._calls = (self._session(aiohttp, limit, tls) for limit in (MAX_LOOKS, MAX_CALLS))
        answer = self._decoded(await self._send(self._looks, "GET", "/version", LOOK_LIMIT_S, NO_QUERY))
        if not isinstance(answer, dict):
            raise Unavailable(f"{self._name} does not answer as an engine does")
        self.version, self.is_podman = api_version(answer), is_podman(answer)

    def _session(self, aiohttp: Any, limit: int, tls: ssl.SSLContext | None) -> Any:
        if self._where.socket:
            connector = aiohttp.UnixConnector(self._where.socket, limit=limit)
        else:
            connector = aiohttp.TCPConnector(limit=limit, ssl=tls if tls is not None else True)
        return aiohttp.ClientSession(connector=connector, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        sessions = [each for each in (self._looks, self._calls) if each is not None]
        self._looks = self._calls = None
        for session in sessions:
            await session.close()

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
        import aiohttp

        if self._looks is None:
            return
        wanted = json.dumps({"type": ["container", "network"]})
        limits = aiohttp.ClientTimeout(total=None, sock_connect=LOOK_LIMIT_S)
        url = self._where.base + self._path("/events")
        try:
            async with self._looks.get(
                url, params={"filters": wanted}, timeout=limits, read_bufsize=MAX_EVENT_BYTES
            ) as answer:
                if answer.status != 200:
                    return
                yield {}
                async for line in answer.content:
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event
        except (aiohttp.ClientError, OSError, ValueError):
            return

    def _path(self, path: str) -> str:
        if path.startswith("/libpod/"):
            return f"/v4.0.0{path}"
        return f"/v{self.version[0]}.{self.version[1]}{path}"

    async def _send(
        self,
        session: Any,
        method: str,
        path: str,
        limit_s: float,
        query: Mapping[str, str],
        body: dict[str, Any] | None = None,
    ) -> bytes:
        import aiohttp

        if session is None:
            raise Unavailable(f"{self._name} is not connected")
        try:
            async with (
                asyncio.timeout(limit_s),
                session.request(method, self._where.base + path, params=query, json=body) as answer,
            ):
                data, status = await self._read(answer), int(answer.status)
        except TimeoutError:
            raise Unavailable(f"{self._name} has not answered within {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self._name} cannot be reached: {_reason(error)}") from None
        if status >= 400:
            raise _refusal(status, data)
        return data  # 304, "not modified", is a success: the container is in that state already

    def _decoded(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise Unavailable(f"{self._name} does not answer as an engine does") from None

    async def _read(self, answer: Any) -> bytes:
        parts, size = [], 0
        async for part in answer.content.iter_any():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise Unavailable(f"{self._name} answers with more than {MAX_ANSWER_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)


def _reason(error: Exception) -> str:
    cause = error if isinstance(error, OSError) or error.__cause__ is None else error.__cause__
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return (text or type(error).__name__)[:MAX_MESSAGE_CHARACTERS]


def _refusal(status: int, data: bytes) -> NotFound | Refused | Unavailable:
    """Return an answer of the engine that is not a success as an error, with the engine's own words."""
    try:
        said = json.loads(data)
        text = str(said.get("message") or said.get("cause") or said)
    except (ValueError, AttributeError):
        text = data.decode("utf-8", "replace")
    text = "".join(each if each.isprintable() else " " for each in text).strip()[:MAX_MESSAGE_CHARACTERS]
    if status == 404:
        return NotFound(text or "there is no such thing")
    if status in (400, 401, 403):
        return Refused(f"the engine refuses it: {text}")
    return Unavailable(f"the engine fails with {status}: {text}")


def part(text: str) -> str:
    """Return text as one part of a path."""
    return quote(text, safe="")
