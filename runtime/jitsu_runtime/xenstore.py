"""Access to Xenstore (docs/misc/xenstore.txt of Xen) from an event loop: pyxs on threads, with deadlines.

A lost connection fails the calls that wait for an answer, and the next call connects again. A call that is not answered
within LIMIT_S counts as a lost connection. Watches survive: they are set again on the new connection.

This module uses the connections of pyxs and derives from its router, both of which are public. It replaces what the
router does with a packet, and pyxs' commands, because those

- end on a lost connection without an error for the calls that wait;
- wait with select(2), which cannot handle file descriptors above 1023; poll(2) can;
- hand events to a `Monitor`, which spins for ever on an event of a path that is no longer watched; here each event goes
  to its watch, and is dropped if there is none;
- expect the reply to WATCH to carry the number of its request, which the kernel's xenbus device does not send;
- refuse empty values, and all characters that are not printable ASCII.

The kernel has a fault too: it keeps a request that is written to the xenbus device in the place where it puts the next
one, until xenstored has accepted it (xenbus_dev_frontend.c). So each call waits until the previous one is done, and no
two of our transactions can disturb each other.

Request numbers begin again after 2^32 requests.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

LIMIT_S = 2.0
"""How long a call may take."""
RETRY_S = 1.0
"""How often a lost connection is tried again while there are watches."""
MAX_THREADS = 8
MAX_TRIES = 50
"""How often a transaction is repeated that other clients have interfered with (EAGAIN)."""
MAX_PAYLOAD_BYTES = 4096
"""XENSTORE_PAYLOAD_MAX (xen/include/public/io/xs_wire.h)."""
DEVICES = (Path("/dev/xen/xenbus"), Path("/proc/xen/xenbus"))
SOCKETS = (Path("/run/xenstored/socket"), Path("/var/run/xenstored/socket"))

log = structlog.get_logger("xenstore")


class Xenstore:
    """One Xenstore. Paths and values are text. Every call raises Unavailable if xenstored does not answer."""

    def __init__(self, path: str, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """`path` is the socket of xenstored or the xenbus device, "" for the usual one; `spawn` runs a coroutine."""
        self._path = path
        self._spawn = spawn
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._threads = DaemonThreads(MAX_THREADS, "xenstore")
        self._watches: dict[bytes, tuple[str, Callable[[], None]]] = {}
        self._tokens = itertools.count(1)
        self._is_reconnecting = False

    async def read(self, path: str) -> str | None:
        """Return the value at a path; None if the path does not exist."""
        value: str | None = await self._call(partial(_read, path=path))
        return value

    async def children(self, path: str) -> list[str]:
        """Return the names directly below a path; an empty list if the path does not exist."""
        names: list[str] = await self._call(partial(_children, path=path))
        return names

    async def change(self, values: Mapping[str, str | None], permissions: Mapping[str, str] | None = None) -> None:
        """Write values in one transaction; a value of None removes the path and everything below it.

        `permissions` are set last. They map a path to what xenstore-chmod(1) accepts, for example "n0 b5".
        """
        await self._call(partial(_change, values=dict(values), permissions=dict(permissions or {})))

    async def watch(self, path: str, changed: Callable[[], None]) -> bytes:
        """Call `changed` once now, and whenever something at or below a path changes; return a token for `unwatch`.

        The watch survives a lost connection: `changed` is called again as soon as there is a new one.
        """
        token = b"%d" % next(self._tokens)
        before = self._client
        self._watches[token] = (path, changed)
        try:
            if await self._connected() is before:  # otherwise connecting has set all watches
                await self._call(partial(_watch, path=path, token=token))
        except _Refused:
            del self._watches[token]
            raise
        except Unavailable:
            self._reconnect_soon()
        return token

    async def unwatch(self, token: bytes) -> None:
        """End a watch."""
        path, _ = self._watches.pop(token, ("", None))
        if path and self._client is not None:
            with suppress(Unavailable):
                await self._call(partial(_unwatch, path=path, token=token))

    async def wait_for(self, path: str) -> str:
        """Wait until a path has a value, and return it."""
        changed = asyncio.Event()
        token = await self.watch(path, changed.set)
        try:
            while True:
                await changed.wait()
                changed.clear()
                with suppress(Unavailable):
                    value = await self.read(path)
                    if value is not None:
                        return value
        finally:
            await self.unwatch(token)

    def close(self) -> None:
        """End all watches, the connection and the threads."""
        self._watches.clear()
        self._lost(self._client)
        self._threads.shutdown()

    # --- the connection ---

    async def _call(self, command: Callable[[Any], Any]) -> Any:
        client = await self._connected()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LIMIT_S):
                return await loop.run_in_executor(self._threads, _in_turn, command, client)
        except TimeoutError:
            self._lost(client)
            raise Unavailable(f"Xenstore has not answered within {LIMIT_S:g} s") from None
        except _Lost as error:
            self._lost(client)
            raise Unavailable(f"Xenstore is not there: {error}") from None

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                loop = asyncio.get_running_loop()

                def on_event(token: bytes) -> None:
                    loop.call_soon_threadsafe(self._watch_fired, token)

                def ended(client: Any) -> None:
                    loop.call_soon_threadsafe(self._lost, client)

                self._client = await loop.run_in_executor(self._threads, _connect, self._path, on_event, ended)
                for token, (path, _) in list(self._watches.items()):
                    watch = partial(_watch, path=path, token=token)
                    with suppress(_Lost):
                        await loop.run_in_executor(self._threads, watch, self._client)
            return self._client

    def _lost(self, client: Any) -> None:
        if client is None or client is not self._client:
            return
        self._client = None
        client.router.end()
        if self._watches:
            self._reconnect_soon()

    def _reconnect_soon(self) -> None:
        if not self._is_reconnecting:
            self._is_reconnecting = True
            self._spawn(self._reconnect())

    async def _reconnect(self) -> None:
        while self._watches and self._client is None:
            await asyncio.sleep(RETRY_S)
            if self._watches:
                with suppress(Unavailable):
                    await self._connected()
        self._is_reconnecting = False

    def _watch_fired(self, token: bytes) -> None:
        watch = self._watches.get(token)
        if watch is not None:
            watch[1]()


class _Op(IntEnum):
    """What a packet is about (enum xsd_sockmsg_type in xen/include/public/io/xs_wire.h)."""

    DIRECTORY = 1
    READ = 2
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    WRITE = 11
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16


@dataclass(frozen=True)
class _Packet:
    """A message, with the fields that pyxs' connections send and receive."""

    op: int
    payload: bytes
    rq_id: int
    tx_id: int = 0

    @property
    def size(self) -> int:
        """The length of the payload."""
        return len(self.payload)


class _Lost(Exception):
    """The connection is lost, or Xenstore has sent a reply that makes no sense."""


class _Refused(Unavailable):
    """Xenstore has refused a request; `reason` is the name of its error, such as EACCES."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# --- on threads ----------------------------------------------------------------------------------


def _connect(path: str, on_event: Callable[[bytes], object], ended: Callable[[Any], object]) -> Any:
    import pyxs
    from pyxs.connection import UnixSocketConnection, XenBusConnection

    place = Path(path) if path else next((each for each in (*SOCKETS, *DEVICES) if each.exists()), SOCKETS[0])
    is_device = place.is_char_device()
    try:
        if not is_device:
            with socket.socket(socket.AF_UNIX) as tried:  # pyxs leaves a socket open that fails to connect
                tried.connect(str(place))
        connection = XenBusConnection(str(place)) if is_device else UnixSocketConnection(str(place))
        router = _router_class()(connection, on_event)
        client = pyxs.Client(router=router)
        router.ended = partial(ended, client)
        client.connect()
    except (pyxs.PyXSError, OSError) as error:
        raise Unavailable(f"Xenstore at {place} cannot be reached: {error}", hint="does xenstored run?") from None
    return client


NUL = b"\0"

request_numbers = itertools.count(1)
"""Shared by all connections."""


def _next_number() -> int:
    return next(request_numbers) % 2**32 or 1  # 0 is reserved: the kernel's device puts it into replies to WATCH


def _errors_of_a_broken_connection() -> tuple[type[Exception], ...]:
    """Return what pyxs raises if its connection breaks, is closed by another thread, or delivers what is not a packet.

    AttributeError and TypeError come from its transport, which has become None; struct.error and ValueError from
    unpacking; IndexError from an event that has no token.
    """
    from pyxs import PyXSError

    return (PyXSError, OSError, AttributeError, TypeError, struct.error, ValueError, IndexError)


def _router_class() -> type[Any]:
    from pyxs import Router

    broken = _errors_of_a_broken_connection()

    class Quick(Router):  # type: ignore[misc]  # pyxs has no types
        """Reads packets on a thread of its own, and hands each to the call or the watch that it belongs to."""

        def __init__(self, connection: Any, on_event: Callable[[bytes], object]) -> None:
            super().__init__(connection)
            self.on_event = on_event
            self.turn = threading.Lock()
            self.ended: Callable[[], object] = lambda: None

        def __call__(self) -> None:
            try:
                poll = select.poll()
                for each in (self.connection, self.r_terminator):
                    poll.register(each.fileno(), select.POLLIN)
                while self.r_terminator.fileno() not in dict(poll.poll()):
                    self._received(self.connection.recv())
            except broken as error:
                log.debug("xenstore connection ended", reason=str(error))
            finally:
                self._close()
                for each in (self.r_terminator, self.w_terminator):
                    each.close()
                self._fail_all()
                with suppress(RuntimeError):  # the event loop is closed
                    self.ended()

        def _received(self, packet: Any) -> None:
            if packet.op == _Op.WATCH_EVENT:
                self.on_event(packet.payload.split(NUL)[1])
                return
            number = packet.rq_id
            if number == 0 and packet.op in (_Op.WATCH, _Op.UNWATCH):
                number = min(self.rvars, default=0)
            caller = self.rvars.pop(number, None)
            if caller is not None:  # otherwise the caller has given up
                caller.set(packet)

        def _fail_all(self) -> None:
            for number in list(self.rvars):
                self.rvars.pop(number).set(_Packet(_Op.ERROR, b"EIO" + NUL, number, 0))

        def _close(self) -> None:
            with suppress(*broken):  # another thread closes the connection at the same time
                self.connection.close()

        def end(self) -> None:
            """End the thread, wherever it waits, and fail all calls."""
            with suppress(OSError):
                self.w_terminator.sendall(NUL)
            self._close()
            self._fail_all()

    return Quick


def _in_turn(command: Callable[[Any], Any], client: Any) -> Any:
    with client.router.turn:
        return command(client)


def _ask(client: Any, op: _Op, *fields: str, transaction: int = 0, missing: bool = False) -> bytes | None:
    """Send a request and return the reply. If the path does not exist, return None with `missing`, or raise _Refused.

    Each field ends with a NUL byte, except the last one of WRITE (docs/misc/xenstore.txt).
    """
    import pyxs

    payload = NUL.join(field.encode() for field in fields) + (b"" if op is _Op.WRITE else NUL)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Unavailable(f"Xenstore accepts at most {MAX_PAYLOAD_BYTES} bytes, and {fields[0]} has {len(payload)}")
    packet = _Packet(op, payload, _next_number(), transaction)
    try:
        answer = client.router.send(packet).get()
    except (pyxs.PyXSError, OSError, AttributeError) as error:  # another thread has closed the connection
        raise _Lost(str(error)) from None
    if answer.op == packet.op:
        return bytes(answer.payload)
    reason = answer.payload.rstrip(NUL).decode("ascii", "replace")
    if reason == "ENOENT" and missing:
        return None
    if reason == "EIO" or answer.op != _Op.ERROR:
        raise _Lost("the connection ended")
    raise _Refused(reason, f"Xenstore refuses {op.name} of {fields[0]}: {reason}")


def _read(client: Any, *, path: str) -> str | None:
    value = _ask(client, _Op.READ, path, missing=True)
    return None if value is None else value.decode("utf-8", "replace")


def _children(client: Any, *, path: str) -> list[str]:
    return [name.decode() for name in (_ask(client, _Op.DIRECTORY, path, missing=True) or b"").split(b"\0") if name]


def _change(client: Any, *, values: dict[str, str | None], permissions: dict[str, str]) -> None:
    for _ in range(MAX_TRIES):
        number = int((_ask(client, _Op.TRANSACTION_START, "") or b"0").rstrip(b"\0"))
        try:
            for path, value in values.items():
                if value is None:
                    _ask(client, _Op.RM, path, transaction=number, missing=True)
                else:
                    _ask(client, _Op.WRITE, path, value, transaction=number)
            for path, text in permissions.items():
                _ask(client, _Op.SET_PERMS, path, *text.split(), transaction=number)
        except Unavailable:
            _ask(client, _Op.TRANSACTION_END, "F", transaction=number)
            raise
        try:
            _ask(client, _Op.TRANSACTION_END, "T", transaction=number)
            return
        except _Refused as refused:
            if refused.reason != "EAGAIN":
                raise
    raise Unavailable(f"others have changed the same paths of Xenstore {MAX_TRIES} times")


def _watch(client: Any, *, path: str, token: bytes) -> None:
    _ask(client, _Op.WATCH, path, token.decode())


def _unwatch(client: Any, *, path: str, token: bytes) -> None:
    _ask(client, _Op.UNWATCH, path, token.decode())
