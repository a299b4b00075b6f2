"""Xenstore (docs/misc/xenstore.txt of Xen) for an event loop: pyxs on threads, with deadlines, and connected again.

Of pyxs the packets and connections are used, and its router and commands replaced, because those

- end on a lost connection without telling those who wait: here their calls fail at once, and the next one connects;
- wait with select(2), which knows no file descriptor over 1023: here poll(2) does;
- hand events to a `Monitor` that spins for ever on one of a path that is watched no more: here each event goes to
  whoever watches, and one that nobody watches is dropped;
- expect the answer to WATCH to carry the number of the question, which the kernel's xenbus device does not do;
- write no empty value and no character but printable ASCII.

And with one of the kernel: a request that is written to its xenbus device is kept where the next one is put, until
xenstored has taken it (xenbus_dev_frontend.c). So a call waits until the one before is done; and no two transactions of
ours disturb each other.

Numbers of requests begin again after 2^32 of them. A call that is not answered in time counts as a lost connection.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

LIMIT_S = 2.0
RETRY_S = 1.0
MAX_THREADS = 8
MAX_TRIES = 50
"""Of a transaction that others interfere with."""
DEVICES = (Path("/dev/xen/xenbus"), Path("/proc/xen/xenbus"))
SOCKETS = (Path("/run/xenstored/socket"), Path("/var/run/xenstored/socket"))

log = structlog.get_logger("xenstore")


class Xenstore:
    """One Xenstore. Paths and values are text; every call raises Unavailable if it is not there."""

    def __init__(self, path: str, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """`path` is xenstored's socket or the xenbus device, "" for the usual one; `spawn` runs a coroutine."""
        self._path = path
        self._spawn = spawn
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._threads = DaemonThreads(MAX_THREADS, "xenstore")
        self._watches: dict[bytes, tuple[str, Callable[[], None]]] = {}
        self._tokens = itertools.count(1)
        self._returns = False
        """Somebody tries to connect again."""

    async def read(self, path: str) -> str | None:
        """Return the value at a path, None if there is none."""
        value: str | None = await self._call(partial(_read, path=path))
        return value

    async def children(self, path: str) -> list[str]:
        """Return the names right below a path; none if it does not exist."""
        names: list[str] = await self._call(partial(_children, path=path))
        return names

    async def change(self, values: Mapping[str, str | None], permissions: Mapping[str, str] | None = None) -> None:
        """Write values, or (None) remove what is there and below, in one transaction.

        `permissions` are set last, as xenstore-chmod(1) writes them: path -> "n0 b5".
        """
        await self._call(partial(_change, values=dict(values), permissions=dict(permissions or {})))

    async def watch(self, path: str, changed: Callable[[], None]) -> bytes:
        """Have `changed` called once now, and when something at or below a path changes; returns what `unwatch` takes.

        The watch lasts: when the connection was lost, `changed` is called again as soon as there is a new one.
        """
        token = b"%d" % next(self._tokens)
        before = self._client
        self._watches[token] = (path, changed)
        try:
            if await self._connected() is before:  # else that has set all watches
                await self._call(partial(_watch, path=path, token=token))
        except _Refused:
            del self._watches[token]
            raise
        except Unavailable:
            self._return_soon()
        return token

    async def unwatch(self, token: bytes) -> None:
        """End a watch."""
        path, _ = self._watches.pop(token, ("", None))
        if path and self._client is not None:
            with suppress(Unavailable):
                await self._call(partial(_unwatch, path=path, token=token))

    async def wait_for(self, path: str) -> str:
        """Return the value at a path as soon as there is one."""
        came = asyncio.Event()
        token = await self.watch(path, came.set)
        try:
            while True:
                await came.wait()
                came.clear()
                with suppress(Unavailable):
                    value = await self.read(path)
                    if value is not None:
                        return value
        finally:
            await self.unwatch(token)

    def close(self) -> None:
        """End it."""
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

                def told(token: bytes) -> None:
                    loop.call_soon_threadsafe(self._told, token)

                def ended(client: Any) -> None:
                    loop.call_soon_threadsafe(self._lost, client)

                self._client = await loop.run_in_executor(self._threads, _connect, self._path, told, ended)
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
            self._return_soon()

    def _return_soon(self) -> None:
        if not self._returns:
            self._returns = True
            self._spawn(self._return())

    async def _return(self) -> None:
        while self._watches and self._client is None:
            await asyncio.sleep(RETRY_S)
            if self._watches:
                with suppress(Unavailable):
                    await self._connected()
        self._returns = False

    def _told(self, token: bytes) -> None:
        watch = self._watches.get(token)
        if watch is not None:
            watch[1]()


class _Lost(Exception):
    """The connection is lost, or Xenstore says what nobody expects."""


class _Refused(Unavailable):
    """Xenstore has said why it does not do something."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# --- on threads ----------------------------------------------------------------------------------


def _connect(path: str, told: Callable[[bytes], object], ended: Callable[[Any], object]) -> Any:
    import pyxs
    from pyxs.connection import UnixSocketConnection, XenBusConnection

    place = Path(path) if path else next((each for each in (*SOCKETS, *DEVICES) if each.exists()), SOCKETS[0])
    is_device = place.is_char_device()
    try:
        if not is_device:
            with socket.socket(socket.AF_UNIX) as tried:  # pyxs would leave one open that fails
                tried.connect(str(place))
        connection = XenBusConnection(str(place)) if is_device else UnixSocketConnection(str(place))
        router = _router_class()(connection, told)
        client = pyxs.Client(router=router)
        router.ended = partial(ended, client)
        client.connect()
    except (pyxs.PyXSError, OSError) as error:
        raise Unavailable(f"Xenstore at {place} cannot be reached: {error}", hint="does xenstored run?") from None
    return client


_numbers = itertools.count(1)


def _next_number() -> int:
    return next(_numbers) % 2**32 or 1  # 0 is what the kernel's device writes into answers to WATCH


def _router_class() -> type[Any]:
    from pyxs._internal import NUL, Op, Packet
    from pyxs.client import Router

    class Quick(Router):  # type: ignore[misc]  # pyxs has no types
        """Reads what comes, on a thread of its own."""

        def __init__(self, connection: Any, told: Callable[[bytes], object]) -> None:
            super().__init__(connection)
            self.told = told
            self.turn = threading.Lock()
            self.ended: Callable[[], object] = lambda: None

        def __call__(self) -> None:
            try:
                poll = select.poll()
                for each in (self.connection, self.r_terminator):
                    poll.register(each.fileno(), select.POLLIN)
                while self.r_terminator.fileno() not in dict(poll.poll()):
                    self._take(self.connection.recv())
            except Exception as error:  # pyxs documents no closed set, and this thread must end in an orderly way
                log.debug("xenstore connection ended", reason=str(error))
            finally:
                with suppress(Exception):
                    self.connection.close()
                for each in (self.r_terminator, self.w_terminator):
                    each.close()
                self._fail_all()
                with suppress(RuntimeError):  # the loop is closed
                    self.ended()

        def _take(self, packet: Any) -> None:
            if packet.op == Op.WATCH_EVENT:
                self.told(packet.payload.split(NUL)[1])
                return
            number = packet.rq_id
            if number == 0 and packet.op in (Op.WATCH, Op.UNWATCH):
                number = min(self.rvars, default=0)
            waits = self.rvars.pop(number, None)
            if waits is not None:  # else nobody waits for it any more
                waits.set(packet)

        def _fail_all(self) -> None:
            for number in list(self.rvars):
                self.rvars.pop(number).set(Packet(Op.ERROR, b"EIO" + NUL, number, 0))

        def end(self) -> None:
            """End it, wherever it waits; all calls fail."""
            with suppress(OSError):
                self.w_terminator.sendall(NUL)
            with suppress(Exception):
                self.connection.close()
            self._fail_all()

    return Quick


def _in_turn(command: Callable[[Any], Any], client: Any) -> Any:
    with client.router.turn:
        return command(client)


def _ask(client: Any, op: str, *fields: str, transaction: int = 0, missing: bool = False) -> bytes | None:
    """Ask and return the answer; None if the path does not exist, and that is allowed (`missing`).

    The fields are strings that end with NUL each, the last one of WRITE does not.
    """
    import pyxs
    from pyxs._internal import NUL, Op, Packet

    payload = NUL.join(field.encode() for field in fields) + (b"" if op == "WRITE" else NUL)
    try:
        packet = Packet(getattr(Op, op), payload, _next_number(), transaction)
        answer = client.router.send(packet).get()
    except pyxs.exceptions.InvalidPayload:
        raise Unavailable(f"Xenstore accepts at most 4096 bytes, and {fields[0]} has {len(payload)}") from None
    except (pyxs.PyXSError, OSError, AttributeError) as error:  # the connection has been closed meanwhile
        raise _Lost(str(error)) from None
    if answer.op == packet.op:
        return bytes(answer.payload)
    reason = answer.payload.rstrip(NUL).decode("ascii", "replace")
    if reason == "ENOENT" and missing:
        return None
    if reason == "EIO" or answer.op != Op.ERROR:
        raise _Lost("the connection ended")
    raise _Refused(reason, f"Xenstore refuses {op} of {fields[0]}: {reason}")


def _read(client: Any, *, path: str) -> str | None:
    value = _ask(client, "READ", path, missing=True)
    return None if value is None else value.decode("utf-8", "replace")


def _children(client: Any, *, path: str) -> list[str]:
    return [name.decode() for name in (_ask(client, "DIRECTORY", path, missing=True) or b"").split(b"\0") if name]


def _change(client: Any, *, values: dict[str, str | None], permissions: dict[str, str]) -> None:
    for _ in range(MAX_TRIES):
        number = int((_ask(client, "TRANSACTION_START", "") or b"0").rstrip(b"\0"))
        try:
            for path, value in values.items():
                if value is None:
                    _ask(client, "RM", path, transaction=number, missing=True)
                else:
                    _ask(client, "WRITE", path, value, transaction=number)
            for path, text in permissions.items():
                _ask(client, "SET_PERMS", path, *text.split(), transaction=number)
        except Unavailable:
            _ask(client, "TRANSACTION_END", "F", transaction=number)
            raise
        try:
            _ask(client, "TRANSACTION_END", "T", transaction=number)
            return
        except _Refused as refused:
            if refused.reason != "EAGAIN":
                raise
    raise Unavailable(f"others have changed the same paths of Xenstore {MAX_TRIES} times")


def _watch(client: Any, *, path: str, token: bytes) -> None:
    _ask(client, "WATCH", path, token.decode())


def _unwatch(client: Any, *, path: str, token: bytes) -> None:
    _ask(client, "UNWATCH", path, token.decode())
