"""Serves the application with uvicorn, inside this process's own event loop.

uvicorn handles neither signals nor logging here: the runtime does. The proxy headers of requests (X-Forwarded-For) are
not believed, because anybody can write them.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import ssl
import struct
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import file_named, secret_file
from jitsu_runtime.settings.web import web_faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from jitsu_runtime.settings.values import WebAddress
    from jitsu_runtime.settings.web import WebSettings

UNIX = "unix"
"""What stands in `scope["client"]` as the host of somebody at the Unix socket; the port is the uid."""
REQUEST_LIMIT_S = 10.0
"""A connection is closed that in this time has sent no whole request head, or no whole body, or has read nothing of
its answer: slow ones must not fill all places."""
MAX_CONNECTIONS = 1_000
MAX_HEAD_BYTES = 32 * 1024
STOP_LIMIT_S = 1

_UCRED = struct.Struct("3i")


class PeerConnection(H11Protocol):
    """A connection that knows the user at its other end, and does not wait for a request for ever."""

    def connection_made(self, transport: Any) -> None:
        """Note who is at the other end."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            self.client = (UNIX, uid)
        self._seen: Any = None
        self._unread = 0
        self._limit = asyncio.get_running_loop().call_later(REQUEST_LIMIT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the limit."""
        self._limit.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Close the connection if its other end has made no progress since the last look.

        It has begun no request and waits for no answer, it has not sent the whole body of its request, or it has read
        nothing of an answer that waits to be sent.
        """
        cycle: Any = self.cycle  # uvicorn's own types leave out that it is None at first
        unread = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
        is_waited_for = cycle is None or cycle.response_complete or cycle.more_body
        if (cycle is self._seen and is_waited_for) or 0 < unread == self._unread:
            self.transport.abort()  # to close it would wait until everything is sent
            return
        self._seen, self._unread = cycle, unread
        self._limit = asyncio.get_running_loop().call_later(REQUEST_LIMIT_S, self._look)


class _Uvicorn(uvicorn.Server):
    """uvicorn, with the signals left to the runtime."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def name_of_user(uid: int) -> str:
    """Return the name of a user of this machine, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def listening_socket(listen: WebAddress) -> socket.socket:
    """Bind what `web.listen` names; raises SetupFault."""
    try:
        if listen.path:
            return _unix_socket(Path(listen.path))
        found = socket.getaddrinfo(listen.tcp.host, listen.tcp.port, type=socket.SOCK_STREAM)
        family, kind, proto, _, address = found[0]
        bound = socket.socket(family, kind, proto)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound
    except OSError as error:
        raise SetupFault(
            f"web.listen: cannot listen on {listen}: {error.strerror or error}", hint="choose another address"
        ) from None


def _unix_socket(path: Path) -> socket.socket:
    """Bind a Unix socket; one that a killed process left is replaced, one on which somebody listens is not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(str(path))
        raise SetupFault(f"web.listen: somebody listens on {path} already", hint="stop it, or choose another path")
    if path.is_socket():
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


def context_of(settings: WebSettings) -> ssl.SSLContext | None:
    """Return the TLS context, None for plain HTTP; raises SetupFault if that would let others read tokens."""
    for key, why, what in web_faults(settings):
        raise SetupFault(f"web.{key}: {why}", hint=what)
    if not settings.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = file_named(settings.certificate, "web.certificate")
    try:
        context.load_cert_chain(certificate, secret_file(settings.key, "web.key"))
    except (OSError, ssl.SSLError) as error:
        raise SetupFault(
            f"web.certificate: {certificate} and web.key cannot be used: {error.strerror or error}",
            hint="both are PEM files, and the key belongs to the certificate",
        ) from None
    return context


async def serve(
    app: Callable[..., Awaitable[None]], bound: socket.socket, context: ssl.SSLContext | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set."""
    config = uvicorn.Config(
        app,
        http=PeerConnection,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=STOP_LIMIT_S,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    server = _Uvicorn(config)

    async def stopping() -> None:
        await stop.wait()
        server.should_exit = True

    waiting = asyncio.create_task(stopping())
    try:
        await server.serve(sockets=[bound])
    finally:
        waiting.cancel()
