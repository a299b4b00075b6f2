"""CURVE (CurveZMQ, RFC 26 of ZeroMQ) on tcp endpoints: messages are encrypted, and both sides know each other's key.

bus.keys is a directory as `jitsu keys` makes it, in ZeroMQ's own format of certificates (zmq.auth):

    ROLE.key_secret         this machine's key pair of a service or operator; 0600, and only where that runs
    public/ROLE.key         the public key of a role; of a service, the one that its clients expect of it
    public/ROLE.WORD.key    a further one of the role: another machine's, another operator's, or the one before

Whoever has a key in public/ may connect, and call what access.py says of its role; a vmd of bus.hosts is expected to
have the key vmd.HOST, if there is one. The directory is looked at each second, so that keys are added, rotated and
dropped while everything runs: then sockets are bound and connected again with the keys that are there now, and calls
under way are sent again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
import zmq
import zmq.asyncio
import zmq.auth
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils.monitor import parse_monitor_message

from jitsu_protocol.model.errors import LostEndpoint, SetupFault
from jitsu_protocol.wire.permissions import ROLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

LOOK_S = 1.0
QUIET_S = 10.0
"""Of many refusals one in that time is logged; all are counted."""
INSIST_S = 0.2
REBIND_TRIES, REBIND_S = 50, 0.02
DOMAIN = "jitsu"
"""ZAP's (RFC 27 of ZeroMQ)."""

_NUMBERS = itertools.count()

log = structlog.get_logger("keys")


@dataclass(frozen=True)
class Keys:
    """What a directory of keys says."""

    public: bytes
    secret: bytes
    """This process's own pair, in Z85."""
    names: dict[bytes, str] = field(default_factory=dict)
    """Public key -> its name: ROLE, ROLE.WORD."""

    def role(self, key: bytes) -> str:
        """Return whose a public key is, "" if nobody's."""
        return self.names.get(key, "").partition(".")[0]

    def expected(self, owner: str, host: str) -> bytes:
        """Return the public key that an owner has, b"" if there is none."""
        by_name = {name: key for key, name in self.names.items()}
        return by_name.get(f"{owner}.{host}", by_name.get(owner, b""))


def load(directory: Path, role: str) -> Keys:
    """Read a directory of keys; raises SetupFault."""
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
    """Whom it connects to; "": it is bound."""
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
        """`refused` counts, with the reason, who is turned away. Raises SetupFault."""
        self._context = context
        self._directory = directory
        self._role = role
        self._spawn = spawn
        self._refused = refused
        self._keys = load(directory, role)
        self._seen = self._signature()
        self._sockets: list[_Socket] = []
        self._logged_at: dict[str, float] = {}
        self._authenticator: AsyncioAuthenticator | None = None
        spawn(self._look_for_ever())

    def role(self, key: str) -> str:
        """Return whose a key is that a peer was let in with (the User-Id of its messages), "" if nobody's now."""
        return self._keys.role(key.encode())

    def bind(self, socket: zmq.Socket[Any], endpoint: str, unbinds: Callable[[], None]) -> None:
        """Bind a socket that takes only peers whose keys are known; `unbinds` is called before it is bound again."""
        if self._authenticator is None:
            self._authenticator = AsyncioAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(DOMAIN, self)
        self._dress(used := _Socket(socket, endpoint, unbinds=unbinds))
        socket.bind(endpoint)
        self._sockets.append(used)

    def connect(self, socket: zmq.Socket[Any], endpoint: str, owner: str, host: str) -> None:
        """Connect a socket to an owner, and to nobody who has not its key."""
        self._dress(used := _Socket(socket, endpoint, owner, host))
        self._spawn(self._insist(used, self._monitor(socket)))
        socket.connect(endpoint)
        self._sockets.append(used)

    def _monitor(self, socket: zmq.Socket[Any]) -> zmq.asyncio.Socket:
        """Return a socket on which ZeroMQ reports each time that an owner has refused our key."""
        address = f"inproc://refused-{next(_NUMBERS)}"
        socket.monitor(address, zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_MONITOR_STOPPED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(address)
        return monitor

    def _dress(self, used: _Socket) -> None:
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
        """Say whether a peer with this key may connect; the authenticator asks."""
        if self._keys.role(key):
            return True
        self._turned_away("unknown-key", "a peer with an unknown key is refused", key=key.decode("ascii", "replace"))
        return False

    def _turned_away(self, reason: str, event: str, **about: str) -> None:
        self._refused(reason)
        if monotonic() > self._logged_at.get(reason, -QUIET_S) + QUIET_S:
            self._logged_at[reason] = monotonic()
            log.warning(event, **about)

    def failed_at(self, endpoint: str) -> Callable[[], None]:
        """Return what counts a peer that speaks no CURVE, or expects another key of us; any thread may call it."""
        event = "a peer without the right keys is refused"
        return lambda: self._turned_away("handshake", event, endpoint=endpoint)

    async def _insist(self, used: _Socket, monitor: zmq.asyncio.Socket) -> None:
        """Connect again when the owner refuses our key, which it may know a moment later; ZeroMQ would not."""
        async for _ in _events(monitor):
            self._turned_away("refused-by-owner", "our key is refused", owner=used.owner, endpoint=used.endpoint)
            await asyncio.sleep(INSIST_S)
            self._connect_again(used)

    def _connect_again(self, used: _Socket) -> None:
        if not self._keys.expected(used.owner, used.host):
            log.warning("the key of an owner is no longer known: not connecting to it again", owner=used.owner)
            return
        with suppress(zmq.ZMQError):  # it has ended by itself
            used.socket.disconnect(used.endpoint)
        self._dress(used)
        used.socket.connect(used.endpoint)

    # --- new keys ---

    def _signature(self) -> list[tuple[str, int, int]]:
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
        self._dress(used)
        for _ in range(REBIND_TRIES):  # ZeroMQ closes the listener on a thread of its own
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
        return  # the context is gone
    finally:
        monitor.close()
