"""The sockets of the bus: ZeroMQ ROUTER/DEALER and PUB/SUB that drive calls.py and feed.py.

Each object has a `run()` that lasts as long as its socket; it belongs in the process's TaskGroup.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar

import structlog
import zmq
import zmq.asyncio

from jitsu_protocol import access, errors
from jitsu_protocol.alarm import Alarm
from jitsu_protocol.calls import MAX_WAITING_CALLS, Answered, Calls, Expired
from jitsu_protocol.codec import MAX_FRAME_BYTES, Envelope, body_as, decode, encode, id_of
from jitsu_protocol.feed import HEARTBEAT_S, RESYNC_S, ApplyItem, AskSnapshot, Publisher, Reset, Subscription
from jitsu_protocol.messages import Failure, FeedItem, Message, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.curve import Curve
    from jitsu_protocol.feed import Action

log = structlog.get_logger("bus")

R = TypeVar("R", bound=Message)
Handler = Callable[[Any], Message | Awaitable[Message]]

MAX_IN_A_ROW = 16
"""Messages that one socket gives its process before the others have their turn: a query takes less than those."""
MAX_TIMEOUT_S = 600.0
"""No request is worked on for longer, whatever its envelope says."""
MAX_REQUESTS = 20_000
"""Requests worked on at once; more are answered `unavailable`."""
SNAPSHOT_TIMEOUT_S = 5.0
RECONNECT_MS = 10
RECONNECT_MAX_MS = 50
"""An owner that returns is heard within that time; on tcp there is CONNECT_MS before it. G7 allows a second."""
HEARTBEAT_MS, DEAD_MS, CONNECT_MS = 500, 1500, 500
"""On tcp: a network that was cut and is joined again is noticed before TCP's own retransmission comes round."""


class Counter(Protocol):
    """What counts drops: see metrics.py."""

    def __call__(self, reason: str) -> None:
        """Count one."""


def _uncounted(reason: str) -> None:
    log.debug("message dropped", reason=reason)


def _bind(socket: zmq.asyncio.Socket, endpoint: str, curve: Curve | None) -> Callable[[], None]:
    """Bind a socket and return what closes it; raises SetupFault if the endpoint cannot be had.

    ZeroMQ takes an ipc path over from a living owner without a word, so a lock file beside it keeps a second
    owner away; the lock goes with the socket, or with the process, however that ends.
    """
    lock: int | None = None

    def close() -> None:
        socket.close()
        if lock is not None:
            os.close(lock)

    try:
        if endpoint.startswith("ipc://"):
            lock = _lock(Path(endpoint.removeprefix("ipc://") + ".lock"), endpoint)
        if _is_secured(curve, endpoint):
            curve.bind(socket, endpoint)
        else:
            socket.bind(endpoint)
    except errors.SetupFault:
        close()
        raise
    except (zmq.ZMQError, OSError) as error:
        close()
        raise errors.SetupFault(
            f"cannot bind {endpoint}: {error.strerror}", hint="is it in use, and may this user create it?"
        ) from None
    return close


def _connect(socket: zmq.asyncio.Socket, endpoint: str, owner: str, host: str, curve: Curve | None) -> None:
    if _is_secured(curve, endpoint):
        curve.connect(socket, endpoint, owner, host)
    else:
        socket.connect(endpoint)


def _is_secured(curve: Curve | None, endpoint: str) -> TypeGuard[Curve]:
    return curve is not None and endpoint.startswith("tcp://")


def _lock(path: Path, endpoint: str) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise errors.SetupFault(
            f"{endpoint} is owned by another process",
            hint="stop that one, or give this one a directory of its own with bus.runtime_dir",
        ) from None
    return descriptor


def _socket(context: zmq.asyncio.Context, kind: int, endpoint: str) -> zmq.asyncio.Socket:
    socket = context.socket(kind)
    if endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        # What a closed connection has not delivered is not sent again for minutes: that would keep the kernel asking
        # who has the address (ARP, once a second), and a peer that is back would wait for its next question.
        socket.setsockopt(zmq.TCP_MAXRT, DEAD_MS)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    return socket


def _send(socket: zmq.asyncio.Socket, frames: Sequence[bytes]) -> bool:
    """Send without waiting; False if nobody could take it (it is not queued, then)."""
    future: Any = socket.send_multipart(frames, zmq.DONTWAIT)
    return bool(future.done() and future.exception() is None)


async def _received(socket: zmq.asyncio.Socket, *, copy: bool = True) -> AsyncIterator[list[Any]]:
    """Yield messages for ever; while many wait, others have their turn between them.

    Without `copy` their parts are frames that know who sent them.
    """
    while True:
        for _ in range(MAX_IN_A_ROW):
            yield await socket.recv_multipart(copy=copy)
        await asyncio.sleep(0)


class RpcServer:
    """The ROUTER of an owner: each request gets one reply."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        handlers: Mapping[type[Request], Handler],
        dropped: Counter = _uncounted,
        curve: Curve | None = None,
    ) -> None:
        """`handlers` may be coroutines or plain functions; a JitsuError that one raises becomes the reply."""
        self._curve = curve if _is_secured(curve, endpoint) else None
        self._socket = _socket(context, zmq.ROUTER, endpoint)
        self._handlers = {cls.kind: (cls, handler) for cls, handler in handlers.items()}
        self._answered = Answered()
        self._peers: dict[bytes, bytes] = {}  # of each request under way: who asked for it last
        self._dropped = dropped
        self._close = _bind(self._socket, endpoint, curve)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._curve is None:
                    async for frames in _received(self._socket):
                        self._received(frames, group)
                else:
                    async for frames in _received(self._socket, copy=False):
                        role = self._curve.role(frames[-1].get("User-Id"))
                        self._received([frame.bytes for frame in frames], group, role)
        finally:
            self._close()

    def _received(self, frames: list[bytes], group: asyncio.TaskGroup, role: str | None = None) -> None:
        """Take a request; `role` is whose key its sender has, None where there are no keys."""
        if len(frames) != 2:
            self._dropped("parts")
            return
        peer, frame = frames
        try:
            envelope = decode(frame)
        except errors.BadRequest as error:
            self._dropped(error.code)
            id = id_of(frame)
            if id:
                self._reply(peer, id, error)
            return
        if not envelope.id:
            self._dropped("no-id")
            return
        if role is not None:
            try:
                access.check(role, envelope.kind)
            except errors.Forbidden as error:
                self._dropped(error.code)
                log.warning("refused", role=role, kind=envelope.kind[:64])
                self._reply(peer, envelope.id, error)
                return
        todo = self._answered.begin(envelope.id)
        if isinstance(todo, bytes):
            _send(self._socket, [peer, todo])
            return
        self._peers[envelope.id] = peer
        if todo and len(self._peers) > MAX_REQUESTS:
            self._finish(envelope.id, errors.Unavailable(f"{MAX_REQUESTS} requests are under way"))
        elif todo:
            self._carry_out(envelope, group)

    def _carry_out(self, envelope: Envelope, group: asyncio.TaskGroup) -> None:
        kind = envelope.kind
        try:
            if kind not in self._handlers:
                raise errors.UnknownKind(f"nobody here answers messages of kind {kind[:64]!r}")
            cls, handler = self._handlers[kind]
            result = handler(body_as(cls, kind, envelope.body))
        except Exception as error:
            self._finish(envelope.id, _as_jitsu_error(error, kind))
            return
        if isinstance(result, Message):
            self._finish(envelope.id, result)
        else:
            group.create_task(self._wait(envelope, result))

    async def _wait(self, envelope: Envelope, result: Awaitable[Message]) -> None:
        reply: Message | errors.JitsuError | None = None
        try:
            async with asyncio.timeout(min(envelope.timeout, MAX_TIMEOUT_S)):
                reply = await result
        except TimeoutError:
            reply = None  # the caller has stopped waiting at the same time
        except Exception as error:
            reply = _as_jitsu_error(error, envelope.kind)
        finally:
            self._finish(envelope.id, reply)

    def _finish(self, id: bytes, reply: Message | errors.JitsuError | None) -> None:
        frame = None
        peer = self._peers.pop(id)
        if reply is not None:
            frame = self._reply(peer, id, reply)
        # An error is not kept: asked again, the request may succeed.
        self._answered.done(id, None if isinstance(reply, errors.JitsuError) else frame)

    def _reply(self, peer: bytes, id: bytes, reply: Message | errors.JitsuError) -> bytes:
        if isinstance(reply, errors.JitsuError):
            reply = Failure.model_validate(errors.to_wire(reply))
        frame = encode(reply, id=id)
        if not self._socket.closed:
            _send(self._socket, [peer, frame])
        return frame


def _as_jitsu_error(error: Exception, kind: str) -> errors.JitsuError:
    """The outermost edge of a request: what was not foreseen is logged with its context, and told."""
    if isinstance(error, errors.JitsuError):
        return error
    log.error("request failed unexpectedly", kind=kind, exc_info=error)
    return errors.Bug(f"{type(error).__name__}: {error}", hint="see the log of the process that answered")


class RpcClient:
    """The DEALER of a caller; any number of calls at once."""

    def __init__(
        self, context: zmq.asyncio.Context, endpoint: str, name: str, curve: Curve | None = None, host: str = ""
    ) -> None:
        """`name` is the owner's; `host` says which vmd."""
        self._socket = _socket(context, zmq.DEALER, endpoint)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for an owner that is away
        self._socket.setsockopt(zmq.SNDHWM, MAX_WAITING_CALLS)
        _connect(self._socket, endpoint, name, host, curve)
        self._name = f"{name} of {host}" if host else name
        self._calls = Calls()
        self._frames: dict[bytes, tuple[Request, asyncio.Future[tuple[str, dict[str, Any]]]]] = {}
        self._prefix = uuid.uuid4().bytes
        self._count = 0
        self._alarm = Alarm(self._passed)

    async def run(self) -> None:
        """Take replies until cancelled."""
        try:
            async for frames in _received(self._socket):
                if len(frames) == 1:
                    self._received(frames[0])
        finally:
            self._alarm.set(None)
            self._socket.close()

    async def call(self, request: Request, reply: type[R], timeout: float) -> R:
        """Send a request and return its reply.

        Raises the error that the owner replied with, or TimedOut after `timeout` seconds.
        """
        self._count += 1
        id = self._prefix + self._count.to_bytes(6, "big")
        frame = encode(request, id=id, timeout=timeout)
        if not self._calls.begin(id, monotonic(), timeout, len(frame)):
            raise errors.Unavailable(f"too many calls wait for {self._name}")
        future: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._frames[id] = (request, future)
        try:
            self._send(id, frame)
            self._alarm.set(self._calls.next_deadline())
            kind, body = await future
        finally:
            self._calls.answered(id)
            del self._frames[id]
        return body_as(reply, kind, body)

    def _received(self, frame: bytes) -> None:
        try:
            envelope = decode(frame)
        except errors.BadRequest as error:
            log.warning("unreadable reply dropped", owner=self._name, error=str(error))
            return
        self._calls.heard(monotonic())
        if self._calls.answered(envelope.id):
            future = self._frames[envelope.id][1]
            if not future.done():
                future.set_result((envelope.kind, envelope.body))

    def _passed(self) -> None:
        for action in self._calls.passed(monotonic()):
            request, future = self._frames[action.id]
            if future.done():
                continue  # cancelled, and its caller has not been woken yet
            if isinstance(action, Expired):
                future.set_exception(
                    errors.TimedOut(f"{self._name} does not answer", hint=f"is jitsu-{self._name} running?")
                )
            else:
                self._send(action.id, encode(request, id=action.id, timeout=action.timeout))
        self._alarm.set(self._calls.next_deadline())

    def _send(self, id: bytes, frame: bytes) -> None:
        if not _send(self._socket, [frame]):
            self._calls.unsent(id, monotonic())


class FeedServer:
    """The PUB socket of an owner: one numbered feed for each topic."""

    def __init__(
        self, context: zmq.asyncio.Context, endpoint: str, topics: Sequence[str], curve: Curve | None = None
    ) -> None:
        self._socket = _socket(context, zmq.PUB, endpoint)
        self.feeds = {topic: Publisher(epoch=uuid.uuid4().hex) for topic in topics}
        self._close = _bind(self._socket, endpoint, curve)

    def publish(self, topic: str, body: Message) -> None:
        """Send the next item of a topic; a subscriber that cannot take it sees the gap."""
        self._publish(topic, self.feeds[topic].item(body))

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        try:
            while True:
                for topic, feed in self.feeds.items():
                    self._publish(topic, feed.heartbeat())
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._close()

    def _publish(self, topic: str, item: FeedItem) -> None:
        if not self._socket.closed:
            _send(self._socket, [topic.encode() + b"\0", encode(item)])


Snapshot = tuple[str, int, Any]
"""(epoch, number, state)"""


class FeedClient:
    """The SUB socket of a subscriber to one topic."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        curve: Curve | None = None,
        owner: str = "",
        host: str = "",
    ) -> None:
        """`ask` calls the owner's rpc; `reset` takes its state, `apply` each later item, in order."""
        self._socket = _socket(context, zmq.SUB, endpoint)
        self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode() + b"\0")
        _connect(self._socket, endpoint, owner, host, curve)
        self._topic = topic
        self._ask, self._reset, self._apply = ask, reset, apply
        self._machine = Subscription()
        self._asking: asyncio.Task[None] | None = None
        self.synced = asyncio.Event()
        """Set when the first snapshot has been taken."""

    def is_live(self) -> bool:
        """Say whether the owner is heard and nothing was missed."""
        return self._machine.is_live()

    def is_heard(self) -> bool:
        """Say whether the owner is heard; something may have been missed, and is asked for."""
        return self._machine.is_heard()

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_at_the_clock(group))
                async for frames in _received(self._socket):  # under no timeout: one that comes with an item loses it
                    self._received(frames, group)
        finally:
            self._socket.close()

    async def _look_at_the_clock(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._perform(self._machine.passed(monotonic()), group)
            now = monotonic()
            await asyncio.sleep(min(max(0.0, self._machine.next_deadline(now) - now), RESYNC_S))

    def _received(self, frames: list[bytes], group: asyncio.TaskGroup) -> None:
        try:
            envelope = decode(frames[-1])
            item = body_as(FeedItem, envelope.kind, envelope.body)
        except errors.BadRequest as error:
            log.warning("unreadable feed item dropped", topic=self._topic, error=str(error))
            return
        self._perform(self._machine.received(item, monotonic()), group)

    def _perform(self, actions: Sequence[Action], group: asyncio.TaskGroup) -> None:
        for action in actions:
            match action:
                case AskSnapshot():
                    if self._asking is None or self._asking.done():
                        self._asking = group.create_task(self._snapshot(group))
                case Reset(snapshot):
                    self._reset(snapshot)
                    self.synced.set()
                case ApplyItem(item):
                    self._apply(item)

    async def _snapshot(self, group: asyncio.TaskGroup) -> None:
        try:
            epoch, number, state = await self._ask()
        except errors.JitsuError as error:
            log.debug("no snapshot", topic=self._topic, error=str(error))
            self._machine.failed(monotonic())
            return
        self._perform(self._machine.snapshot(epoch, number, state, monotonic()), group)
