"""The keys of tcp endpoints: CurveZMQ (RFC 26 of ZeroMQ) encrypts the messages, and each side verifies the other's key.

The setting bus.keys names a directory that `jitsu keys` makes, in ZeroMQ's own certificate format (zmq.auth):

    ROLE.key_secret         the key pair of a service or an operator; mode 0600, only on the machine where it runs
    public/ROLE.key         the public key of a role; for a service, the key that its clients expect it to have
    public/ROLE.WORD.key    a further key of the role: of another machine, of another operator, or the previous one

A peer may connect if its key is in public/, and may send the requests that wire/permissions.py allows its role. A
client expects a vmd of bus.hosts to have the key vmd.HOST, if that exists.

The directory is read once in LOOK_S, so that keys can be added, rotated and removed while everything runs. When the
keys have changed, sockets are bound and connected again with the new ones, and calls under way are sent again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
import zmq
import zmq.asyncio
import zmq.auth
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils.monitor import parse_monitor_message

from jitsu_protocol.model.errors import LostEndpoint, SetupFault
from jitsu_protocol.wire.permissions import ROLES
from jitsu_runtime.rarely import Rarely

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

LOOK_S = 1.0
RETRY_S = 0.2
"""How long a client waits before it connects again to an owner that has refused its key."""
REBIND_TRIES, REBIND_S = 50, 0.02
"""ZeroMQ closes the old listener on a thread of its own, usually within a few milliseconds."""
DOMAIN = "jitsu"
"""The domain of our sockets in ZeroMQ's authentication protocol (ZAP, RFC 27 of ZeroMQ)."""

_NUMBERS = itertools.count()

log = structlog.get_logger("keys")


@dataclass(frozen=True)
class Keys:
    """The keys in a directory."""

    public: bytes
    secret: bytes
    """The key pair of this process, both in Z85 (RFC 32 of ZeroMQ)."""
    names: dict[bytes, str] = field(default_factory=dict)
    """The name of each public key: ROLE or ROLE.WORD."""

    def role(self, key: bytes) -> str:
        """Return the role that has a public key; "" if the key is unknown."""
        return self.names.get(key, "").partition(".")[0]

    def expected(self, owner: str, host: str) -> bytes:
        """Return the public key that an owner is expected to have; b"" if none is known."""
        by_name = {name: key for key, name in self.names.items()}
        return by_name.get(f"{owner}.{host}", by_name.get(owner, b""))


def load(directory: Path, role: str) -> Keys:
    """Read a directory of keys; raises SetupFault if a file is missing, damaged, or readable by others."""
    secret_file = directory / f"{role}.key_secret"
    try:
        mode = secret_file.stat().st_mode
        public, secret = zmq.auth.load_certificate(secret_file)
        names = {}
        for path in sorted((directory / "public").glob("*.key")):
            key, _ = zmq.auth.load_certificate(path)
            if path.name.partition(".")[0] in ROLES:
                names[key] = path.name.removesuffix(".key")
    except (OSError, ValueError) as error:
        raise SetupFault(f"bus.keys: {error}", hint=f"`jitsu keys init {directory}` makes keys") from None
    if mode & 0o077:
        raise SetupFault(f"bus.keys: others may read {secret_file}", hint=f"chmod 600 {secret_file}")
    if secret is None:
        raise SetupFault(f"bus.keys: {secret_file} has no secret key")
    return Keys(public, secret, names)


@dataclass
class _Socket:
    socket: zmq.Socket[Any]
    endpoint: str
    owner: str = ""
    """The service that it is connected to; "" for a socket that is bound."""
    host: str = ""
    unbinds: Callable[[], None] = lambda: None


class Curve:
    """The keys of one process, and its sockets that use them."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        directory: Path,
        role: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`refused` counts the peers that are refused, by reason. Raises SetupFault."""
        self._context = context
        self._directory = directory
        self._role = role
        self._spawn = spawn
        self._refused = refused
        self._keys = load(directory, role)
        self._seen = self._signature()
        self._sockets: list[_Socket] = []
        self._refusals = Rarely()
        self._authenticator: AsyncioAuthenticator | None = None
        spawn(self._look_for_ever())

    def role(self, key: str) -> str:
        """Return the role of a peer by its key, the User-Id of its messages; "" if that key is no longer known."""
        return self._keys.role(key.encode())

    def bind(self, socket: zmq.Socket[Any], endpoint: str, unbinds: Callable[[], None]) -> None:
        """Bind a socket to which only peers with known keys connect; `unbinds` is called before it is bound again."""
        if self._authenticator is None:
            self._authenticator = AsyncioAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(DOMAIN, self)
        self._set_keys(used := _Socket(socket, endpoint, unbinds=unbinds))
        socket.bind(endpoint)
        self._sockets.append(used)

    def connect(self, socket: zmq.Socket[Any], endpoint: str, owner: str, host: str) -> None:
        """Connect a socket to an owner; the handshake fails unless the peer has the owner's key."""
        self._set_keys(used := _Socket(socket, endpoint, owner, host))
        self._spawn(self._retry_refused(used, self._monitor(socket)))
        socket.connect(endpoint)
        self._sockets.append(used)

    def _monitor(self, socket: zmq.Socket[Any]) -> zmq.asyncio.Socket:
        """Return a socket on which ZeroMQ reports every refusal of our key (zmq_socket_monitor(3))."""
        address = f"inproc://refused-{next(_NUMBERS)}"
        socket.monitor(address, zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_MONITOR_STOPPED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(address)
        return monitor

    def _set_keys(self, used: _Socket) -> None:
        socket = used.socket
        socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
        if used.owner:
            expected = self._keys.expected(used.owner, used.host)
            if not expected:
                raise SetupFault(
                    f"bus.keys: {self._directory}/public has no {used.owner}.key",
                    hint="copy it from the machine where that service runs",
                )
            socket.curve_serverkey = expected
        else:
            socket.curve_server = True
            socket.zap_domain = DOMAIN.encode()

    def callback(self, _: str, key: bytes) -> bool:
        """Return whether a peer with this key may connect: the authenticator calls this for each handshake."""
        if self._keys.role(key):
            return True
        self._count_refusal("unknown-key", "a peer with an unknown key is refused", key=key.decode("ascii", "replace"))
        return False

    def _count_refusal(self, reason: str, event: str, **about: str) -> None:
        self._refused(reason)
        if self._refusals.is_due(reason):
            log.warning(event, **about)

    def failed_at(self, endpoint: str) -> Callable[[], None]:
        """Return a function that counts a peer without CURVE or with another key for us; any thread may call it."""
        event = "a peer without the right keys is refused"
        return lambda: self._count_refusal("handshake", event, endpoint=endpoint)

    async def _retry_refused(self, used: _Socket, monitor: zmq.asyncio.Socket) -> None:
        """Connect again whenever the owner has refused our key. It may know the key soon, but ZeroMQ gives up."""
        async for _ in _events(monitor):
            self._count_refusal("refused-by-owner", "our key is refused", owner=used.owner, endpoint=used.endpoint)
            await asyncio.sleep(RETRY_S)
            self._connect_again(used)

    def _connect_again(self, used: _Socket) -> None:
        if not self._keys.expected(used.owner, used.host):
            log.warning("the key of an owner is no longer known: not connecting to it again", owner=used.owner)
            return
        with suppress(zmq.ZMQError):  # the connection has already ended
            used.socket.disconnect(used.endpoint)
        self._set_keys(used)
        used.socket.connect(used.endpoint)

    # --- new keys ---

    def _signature(self) -> list[tuple[str, int, int]]:
        """Return what changes whenever a file of the directory is added, removed or replaced."""
        found = []
        for directory in (self._directory, self._directory / "public"):
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(OSError):
                        found.append((entry.path, entry.stat().st_mtime_ns, entry.stat().st_ino))
        return sorted(found)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if (seen := self._signature()) == self._seen:
                continue
            try:
                keys = load(self._directory, self._role)
            except SetupFault as fault:
                log.warning("cannot read the new keys", reason=str(fault))
            else:
                before, self._keys = self._keys, keys
                log.info("keys read again", known=len(keys.names))
                await self._renew(before)
            self._seen = seen

    async def _renew(self, before: Keys) -> None:
        """Bind and connect the sockets again whose keys have changed."""
        is_other = before.public != self._keys.public
        self._sockets = [used for used in self._sockets if not used.socket.closed]
        for used in self._sockets:
            if not used.owner:
                if is_other:
                    await self._rebind(used)
            elif is_other or before.expected(used.owner, used.host) != self._keys.expected(used.owner, used.host):
                self._connect_again(used)

    async def _rebind(self, used: _Socket) -> None:
        used.unbinds()
        used.socket.unbind(used.endpoint)
        self._set_keys(used)
        for _ in range(REBIND_TRIES):
            with suppress(zmq.ZMQError):
                used.socket.bind(used.endpoint)
                return
            await asyncio.sleep(REBIND_S)
        raise LostEndpoint(f"cannot bind {used.endpoint} again with its new key", hint="does another process have it?")


async def _events(monitor: zmq.asyncio.Socket) -> AsyncIterator[None]:
    """Yield for each event of a socket's monitor, until the socket is closed."""
    try:
        while parse_monitor_message(await monitor.recv_multipart())["event"] != zmq.EVENT_MONITOR_STOPPED:
            yield
    except zmq.ZMQError:
        return  # the context was destroyed
    finally:
        monitor.close()
