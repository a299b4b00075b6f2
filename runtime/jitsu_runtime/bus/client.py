"""The callers' and subscribers' sockets of the bus: ZeroMQ DEALER and SUB that drive calls.py and feed.py.

Each object has a `run()` that lasts as long as its socket; it belongs in the process's TaskGroup. owner.py has the
other half.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import zmq
import zmq.asyncio

from jitsu_protocol.messages import FeedItem, Message, Request
from jitsu_protocol.model import errors
from jitsu_protocol.wire.calls import MAX_WAITING_CALLS, Calls, Expired
from jitsu_protocol.wire.codec import HEADER_BYTES, body_as, decode, encode
from jitsu_protocol.wire.feed import RESYNC_S, ApplyItem, AskSnapshot, Reset, Subscription
from jitsu_runtime.bus.sockets import connect, make_socket, received, send
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.driver import Alarm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from jitsu_protocol.wire.feed import Action
    from jitsu_runtime.bus.curve import Curve
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Snapshot

log = structlog.get_logger("bus")

R = TypeVar("R", bound=Message)


class RpcClient:
    """The DEALER of a caller; any number of calls at once."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        name: str,
        curve: Curve | None = None,
        host: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`name` is the owner's; `host` says which vmd."""
        self._socket = make_socket(context, zmq.DEALER, endpoint)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for an owner that is away
        self._socket.setsockopt(zmq.SNDHWM, MAX_WAITING_CALLS)
        connect(self._socket, endpoint, name, host, curve)
        self._name = f"{name} of {host}" if host else name
        self._clock = clock
        self._calls = Calls()
        self._frames: dict[bytes, tuple[Request, asyncio.Future[tuple[str, dict[str, Any]]]]] = {}
        self._prefix = uuid.uuid4().bytes
        self._count = 0
        self._alarm = Alarm(self._passed, clock)

    async def run(self) -> None:
        """Take replies until cancelled."""
        try:
            async for frames in received(self._socket):
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
        if len(frame) > request.max_bytes + HEADER_BYTES:
            raise errors.BadRequest(
                f"a request of {len(frame)} bytes is too long for {request.kind}: {request.max_bytes} are allowed",
                hint="ask for it in smaller parts",
            )
        if not self._calls.begin(id, self._clock.now(), timeout, len(frame)):
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
        self._calls.heard(self._clock.now())
        if self._calls.answered(envelope.id):
            future = self._frames[envelope.id][1]
            if not future.done():
                future.set_result((envelope.kind, envelope.body))

    def _passed(self) -> None:
        for action in self._calls.passed(self._clock.now()):
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
        if not send(self._socket, [frame]):
            self._calls.unsent(id, self._clock.now())


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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`ask` calls the owner's rpc; `reset` takes its state, `apply` each later item, in order."""
        self._socket = make_socket(context, zmq.SUB, endpoint)
        self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode() + b"\0")
        connect(self._socket, endpoint, owner, host, curve)
        self._topic = topic
        self._ask, self._reset, self._apply = ask, reset, apply
        self._clock = clock
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
                async for frames in received(self._socket):  # under no timeout: one that comes with an item loses it
                    self._received(frames, group)
        finally:
            self._socket.close()

    async def _look_at_the_clock(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._perform(self._machine.passed(self._clock.now()), group)
            now = self._clock.now()
            await asyncio.sleep(min(max(0.0, self._machine.next_deadline(now) - now), RESYNC_S))

    def _received(self, frames: list[bytes], group: asyncio.TaskGroup) -> None:
        try:
            envelope = decode(frames[-1])
            item = body_as(FeedItem, envelope.kind, envelope.body)
        except errors.BadRequest as error:
            log.warning("unreadable feed item dropped", topic=self._topic, error=str(error))
            return
        self._perform(self._machine.received(item, self._clock.now()), group)

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
            self._machine.failed(self._clock.now())
            return
        self._perform(self._machine.snapshot(epoch, number, state, self._clock.now()), group)
