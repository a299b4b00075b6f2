"""Requests over HTTP to the servers of one hypervisor, any of which can be asked; aiohttp is imported when needed.

Each request has a limit in time, and no more of an answer is read than there may reasonably be: a server that hangs, or
that sends without end, delays nobody else and fills no memory. Answers are asked for as they are, and are not
unpacked: a small answer could become a large one. Redirections are not followed. If a server does not answer, the next
request goes to another one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import SetupFault, TimedOut, Unavailable
from jitsu_vmd.hypervisors.shared.rules.texts import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

    import aiohttp

MAX_SERVERS = 64
UNPACKED: Mapping[str, str] = MappingProxyType({"Accept-Encoding": "identity"})

log = structlog.get_logger("vmd")


@dataclass(frozen=True)
class HttpAnswer:
    """What a server has answered."""

    status: int
    reason: str
    """Of the status line."""
    data: bytes


def library(kind: str) -> Any:
    """Import aiohttp; raises SetupFault. `kind` is the extra of jitsu-vmd that installs it."""
    try:
        import aiohttp
    except ImportError:
        raise SetupFault("aiohttp is not installed", hint=f'pip install "jitsu-vmd[{kind}]"') from None
    return aiohttp


class HttpServers:
    """The servers of one hypervisor, of which the first is asked."""

    def __init__(self, urls: Iterable[str] = (), socket: str = "", shown: str = "") -> None:
        """`urls` are https://HOST:PORT; or there is one server at a unix socket. `shown` is what messages call it."""
        self.socket = socket
        self._urls = [*urls] or ["http://server"]
        self._own = tuple(self._urls)
        self._shown = shown
        self._session: aiohttp.ClientSession | None = None
        self._library: Any = None

    # --- the connection ---

    def open(self, kind: str, tls: Any, most_at_once: int) -> None:
        """Make ready to send requests, if that was not done; raises SetupFault."""
        self._library = library(kind)
        if self._session is not None:
            return
        if self.socket:
            connector = self._library.UnixConnector(path=self.socket, limit=most_at_once)
        else:
            connector = self._library.TCPConnector(ssl=True if tls is None else tls, limit=most_at_once)
        self._session = self._library.ClientSession(
            connector=connector,
            timeout=self._library.ClientTimeout(total=None),
            read_bufsize=1 << 20,
            auto_decompress=False,
            headers=UNPACKED,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._session is not None

    @property
    def where(self) -> str:
        """Whom the next request goes to."""
        return self._shown or self.socket or self._urls[0]

    @property
    def base(self) -> str:
        """What the URL of the next request begins with. The host of a URL means nothing on a unix socket."""
        return self._urls[0]

    def know(self, urls: Iterable[str]) -> None:
        """Note which servers there are besides those that are configured; the one that is asked now stays the first."""
        if not self.socket:
            self._urls = [*dict.fromkeys([self._urls[0], *self._own, *urls])][:MAX_SERVERS]

    def another(self, url: str) -> None:
        """Have the next request go to another server than this one."""
        if len(self._urls) > 1 and self._urls[0] == url:
            self._urls.append(self._urls.pop(0))
            log.warning("this server does not answer: another is asked", was=url, now=self._urls[0])

    # --- requests ---

    async def request(self, method: str, path: str, limit_s: float, most_bytes: int, **more: Any) -> HttpAnswer:
        """Return what the first server answers; raises TimedOut or Unavailable, and then asks another the next time.

        `path` begins with a slash, and what came from elsewhere is quoted in it; `more` is as in aiohttp.
        """
        session, url = self._opened(), self.base
        try:
            async with (
                asyncio.timeout(limit_s),
                session.request(method, url + path, allow_redirects=False, **more) as answer,
            ):
                data = await _read(answer.content, most_bytes)
                return HttpAnswer(answer.status, answer.reason or "", data)
        except TimeoutError:
            where = self._failed(url)
            raise TimedOut(f"{where} has not answered within {limit_s:g} s") from None
        except (self._library.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{self._failed(url)} cannot be reached: {why(error)}") from None

    async def messages(
        self, path: str, limit_s: float, most_bytes: int, heartbeat_s: float | None
    ) -> AsyncIterator[object]:
        """Yield what comes over a web socket, first None when it is open; ends with it, raises Unavailable without."""
        session, url = self._opened(), self.base
        try:
            async with asyncio.timeout(limit_s):
                socket = await session.ws_connect(url + path, heartbeat=heartbeat_s, max_msg_size=most_bytes)
            async with socket:
                yield None
                async for message in socket:
                    yield message.data
        except TimeoutError:
            raise Unavailable(f"{self._failed(url)} has not answered within {limit_s:g} s") from None
        except (self._library.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{self._failed(url)} cannot be reached: {why(error)}") from None

    async def lines(self, path: str, limit_s: float, most_bytes: int, **more: Any) -> AsyncGenerator[bytes]:
        """Yield the lines that a server sends, first b"" when it has begun; ends when it stops, or was not asked."""
        if self._session is None:
            return
        limits = self._library.ClientTimeout(total=None, sock_connect=limit_s)
        try:
            async with self._session.get(
                self.base + path, timeout=limits, read_bufsize=most_bytes, allow_redirects=False, **more
            ) as answer:
                if answer.status != 200:
                    return
                yield b""
                async for line in answer.content:
                    yield line
        except (self._library.ClientError, OSError, ValueError):  # ValueError: a line that is too long
            return

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Unavailable(f"{self.where} is not connected")
        return self._session

    def _failed(self, url: str) -> str:
        """Have another server asked the next time, and return what messages call this one."""
        where = self.where
        self.another(url)
        return where


def why(error: Exception) -> str:
    """Return the reason of an error of aiohttp on one line: its own, or that of the system's call."""
    cause = error if isinstance(error, OSError) or error.__cause__ is None else error.__cause__
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return one_line(text) or type(error).__name__


async def _read(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        size += len(part)
        if size > most_bytes:
            raise Unavailable(f"the answer has more than {most_bytes >> 20} MiB")
        parts.append(part)
    return b"".join(parts)
