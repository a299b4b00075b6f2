"""The owner's sockets of the bus: ZeroMQ ROUTER and XPUB that drive calls.py and feed.py; bus.py has the other half.

What comes from a peer is checked before it is acted on (G9). Of a request, in this order:

    its length                 a longer message than any of our kinds: ZeroMQ disconnects the peer
    its header                 malformed, another version, no id                                     error or nothing
    the right to send it       by the role of the sender's key (access.py)                           `forbidden`
    its kind, its own length   of a kind that nobody here answers, or too long for its kind          error
    the number under way       of this peer, and of all                                              `unavailable`
    its body                   read in steps and within limits (bodies.py)                           `malformed`

Replies wait for a slow peer within the bounds of outbox.py. Of a subscriber nothing is read but subscriptions to the
topics that there are; see `FeedServer`. How many may be connected at all is said in door.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter as Counts
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import structlog
import zmq
import zmq.asyncio

from jitsu_protocol.messages import Failure, FeedItem, Message, Request
from jitsu_protocol.model import errors
from jitsu_protocol.wire import permissions as access
from jitsu_protocol.wire.bodies import Reading, read
from jitsu_protocol.wire.calls import Answered
from jitsu_protocol.wire.codec import HEADER_BYTES, MAX_FRAME_BYTES, encode, id_of, open_frame
from jitsu_protocol.wire.feed import HEARTBEAT_S, Publisher
from jitsu_protocol.wire.outbox import Outbox
from jitsu_runtime.bus.sockets import Sent, bind, is_secured, make_socket, received, send, send_to

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping, Sequence

    from jitsu_protocol.wire.codec import Header
    from jitsu_runtime.bus.curve import Curve
    from jitsu_runtime.world import Handler

log = structlog.get_logger("bus")


MAX_TIMEOUT_S = 600.0
"""No request is worked on for longer, whatever its envelope says."""
MAX_REQUESTS = 20_000
"""Requests worked on at once; more are answered `unavailable`."""
MAX_REQUESTS_OF_PEER = 12_000
"""Of these, from one connection: one peer leaves room for the others, and one dns may wake 10,000 VMs at once."""
AT_ONCE_BYTES = 64 * 1024
"""A longer body is read in steps, between which others are answered."""
MAX_READING_BYTES = 64 * 1024 * 1024
"""Bodies that are read in steps, or wait for that."""
CURVE_BYTES = 1024
"""What the transport may add to a message: encryption, and the frames of its own handshake."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Of one peer: what ZeroMQ may hold for us while we do something else."""
MAX_QUEUED_REPLIES = 16
FLUSH_S, MAX_FLUSH_S = 0.0005, 0.05
QUIET_S = 10.0
"""Of many refusals of one role, one in that time is logged; all are counted."""


class Counter(Protocol):
    """What counts drops: see metrics.py."""

    def __call__(self, reason: str) -> None:
        """Count one."""


def _uncounted(reason: str) -> None:
    log.debug("message dropped", reason=reason)


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
        self._curve = curve if is_secured(curve, endpoint) else None
        longest = max(cls.max_bytes for cls in handlers) + HEADER_BYTES + CURVE_BYTES
        self._socket = make_socket(context, zmq.ROUTER, endpoint, longest)
        self._socket.setsockopt(zmq.RCVHWM, max(2, min(1000, MAX_QUEUED_BYTES // longest)))
        self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED_REPLIES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # says when a peer takes no more, instead of dropping replies
        self._handlers = {cls.kind: (cls, handler) for cls, handler in handlers.items()}
        self._answered = Answered()
        self._peers: dict[bytes, bytes] = {}  # of each request under way: who asked for it last
        self._under_way: Counts[bytes] = Counts()
        self._reading = asyncio.Lock()
        self._reading_bytes = 0
        self._outbox = Outbox()
        self._waits = asyncio.Event()
        self._logged_at: dict[str, float] = {}
        self._dropped = dropped
        self._door, self._close = bind(self._socket, endpoint, curve, dropped)

    @property
    def waiting_bytes(self) -> int:
        """Of replies, how much waits for peers that do not take it, beside what ZeroMQ has."""
        return self._outbox.total

    @property
    def peers_served(self) -> int:
        """How many connections have requests under way."""
        return len(self._under_way)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flush_for_ever())
                async for frames in received(self._socket, copy=False):
                    if len(frames) != 2:
                        self._dropped("parts")
                        continue
                    self._door.heard(frames[1])
                    role = None if self._curve is None else self._curve.role(frames[-1].get("User-Id"))
                    self._received(frames[0].bytes, frames[1].buffer, group, role)
        finally:
            self._close()

    def _received(self, peer: bytes, frame: memoryview, group: asyncio.TaskGroup, role: str | None) -> None:
        """Take a request; `role` is whose key its sender has, None where there are no keys."""
        try:
            header = open_frame(frame)
            if header.id:
                self._check(header, frame, role)
        except (errors.BadRequest, errors.Forbidden) as error:
            self._dropped(error.code)
            if id := id_of(frame):
                self._reply(peer, id, error)
            return
        if not header.id:
            self._dropped("no-id")
            return
        todo = self._answered.begin(header.id)
        if isinstance(todo, bytes):
            self._send(peer, todo)
            return
        self._asked(header.id, peer)
        if not todo:
            return
        if len(self._peers) > MAX_REQUESTS or self._under_way[peer] > MAX_REQUESTS_OF_PEER:
            self._finish(header.id, errors.Unavailable(f"{len(self._peers)} requests are under way"))
        else:
            self._take(header, frame[header.body_at :], group)

    def _check(self, header: Header, frame: memoryview, role: str | None) -> None:
        """Raise Forbidden or BadRequest for what can be refused without a look at the body."""
        kind = header.kind
        if role is not None:
            try:
                access.check(role, kind)
            except errors.Forbidden:
                if monotonic() > self._logged_at.get(role, -QUIET_S) + QUIET_S:
                    self._logged_at[role] = monotonic()
                    log.warning("refused", role=role, kind=kind)
                raise
        if kind not in self._handlers:
            raise errors.UnknownKind(f"nobody here answers messages of kind {kind!r}")
        longest = self._handlers[kind][0].max_bytes
        if len(frame) - header.body_at > longest:
            raise errors.MalformedMessage(f"{kind} of {len(frame)} bytes is too long: {longest} are allowed")

    def _asked(self, id: bytes, peer: bytes) -> None:
        """Note who is sent the reply; of a request that is sent again, perhaps over another connection, the latest."""
        if id in self._peers:
            self._one_less(self._peers[id])
        self._peers[id] = peer
        self._under_way[peer] += 1

    def _one_less(self, peer: bytes) -> None:
        self._under_way[peer] -= 1
        if self._under_way[peer] <= 0:
            del self._under_way[peer]

    def _take(self, header: Header, body: memoryview, group: asyncio.TaskGroup) -> None:
        """Read a body, and carry out what it asks for."""
        cls = self._handlers[header.kind][0]
        if len(body) > AT_ONCE_BYTES:
            if self._reading_bytes + len(body) > MAX_READING_BYTES:
                self._finish(header.id, errors.Unavailable("too many large requests are being read"))
            else:
                self._reading_bytes += len(body)  # now: many can come before the first task runs
                group.create_task(self._read_in_steps(header, cls, body, group))
            return
        try:
            request = read(cls, body)
        except errors.BadRequest as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request, group)

    async def _read_in_steps(
        self, header: Header, cls: type[Request], body: memoryview, group: asyncio.TaskGroup
    ) -> None:
        """Read a large body between other things, one at a time: steps of many would be as long as all of one."""
        try:
            async with self._reading:
                reading = Reading(cls, body)
                for _ in reading.steps():
                    await asyncio.sleep(0)
                request = reading.result()
        except errors.BadRequest as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request, group)
        finally:
            self._reading_bytes -= len(body)

    def _carry_out(self, header: Header, request: Request, group: asyncio.TaskGroup) -> None:
        try:
            result = self._handlers[header.kind][1](request)
        except Exception as error:
            self._finish(header.id, _as_jitsu_error(error, header.kind))
            return
        if isinstance(result, Message):
            self._finish(header.id, result)
        else:
            group.create_task(self._wait(header, result))

    async def _wait(self, header: Header, result: Awaitable[Message]) -> None:
        reply: Message | errors.JitsuError | None = None
        try:
            async with asyncio.timeout(min(header.timeout, MAX_TIMEOUT_S)):
                reply = await result
        except TimeoutError:
            reply = None  # the caller has stopped waiting at the same time
        except Exception as error:
            reply = _as_jitsu_error(error, header.kind)
        finally:
            self._finish(header.id, reply)

    def _finish(self, id: bytes, reply: Message | errors.JitsuError | None) -> None:
        frame = None
        peer = self._peers.pop(id)
        self._one_less(peer)
        if reply is not None:
            frame = self._reply(peer, id, reply)
        # An error is not kept: asked again, the request may succeed.
        self._answered.done(id, None if isinstance(reply, errors.JitsuError) else frame)

    def _reply(self, peer: bytes, id: bytes, reply: Message | errors.JitsuError) -> bytes:
        frame = b"" if isinstance(reply, errors.JitsuError) else encode(reply, id=id)
        if len(frame) > MAX_FRAME_BYTES:
            reply = errors.Refused(f"the answer would have {len(frame)} bytes, {MAX_FRAME_BYTES} are allowed")
        if isinstance(reply, errors.JitsuError):
            frame = encode(Failure.model_validate(errors.to_wire(reply)), id=id)
        self._send(peer, frame)
        return frame

    # --- replies that wait ---

    def _send(self, peer: bytes, frame: bytes) -> None:
        if self._socket.closed:
            return
        if self._outbox.has(peer) or send_to(self._socket, peer, frame) is Sent.FULL:
            before = self._outbox.dropped
            self._outbox.put(peer, frame)
            for _ in range(self._outbox.dropped - before):
                self._dropped("slow-reader")
            self._waits.set()

    async def _flush_for_ever(self) -> None:
        """Send what waits as peers take it; ZeroMQ does not say when one does."""
        pause = FLUSH_S
        while True:
            await self._waits.wait()
            progress = [self._flush(peer) for peer in self._outbox.peers()]
            if not self._outbox:
                self._waits.clear()
            pause = FLUSH_S if any(progress) else min(2 * pause, MAX_FLUSH_S)
            await asyncio.sleep(pause)

    def _flush(self, peer: bytes) -> bool:
        """Send what waits for a peer; returns whether it took any."""
        progress = False
        while (frame := self._outbox.first(peer)) is not None:
            match send_to(self._socket, peer, frame):
                case Sent.FULL:
                    break
                case Sent.GONE:
                    self._outbox.forget(peer)
                case Sent.SENT:
                    progress = True
                    self._outbox.sent(peer)
        return progress


def _as_jitsu_error(error: Exception, kind: str) -> errors.JitsuError:
    """The outermost edge of a request: what was not foreseen is logged with its context, and told."""
    if isinstance(error, errors.JitsuError):
        return error
    log.error("request failed unexpectedly", kind=kind, exc_info=error)
    return errors.Bug(f"{type(error).__name__}: {error}", hint="see the log of the process that answered")


MAX_SUBSCRIPTION_BYTES = 1024
"""Enough for the handshake of CURVE; a topic has some ten. ZeroMQ keeps 50 bytes for each byte of a subscription."""
MAX_FOREIGN_TOPICS = 32
"""Subscriptions of one peer to topics that there are not: a peer of another version may have some."""
MAX_FOREIGN_IN_ALL = 256
MAX_ITEM_BYTES = 128 * 1024
"""A subscriber that reads nothing has at most 1000 items waiting for it (SNDHWM). Who is sent a gap instead of an item
asks for a snapshot, which comes in pages."""


class FeedServer:
    """The XPUB socket of an owner: one numbered feed for each topic.

    ZeroMQ keeps each subscription until its subscriber goes. So that peers cannot fill our memory with them, each is
    short, and those to topics that we do not have are counted for each peer: one that has more than MAX_FOREIGN_TOPICS
    is cut, or, when there are more than MAX_FOREIGN_IN_ALL, the one that has the most. Nobody else notices.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        topics: Sequence[str],
        curve: Curve | None = None,
        dropped: Counter = _uncounted,
    ) -> None:
        self._curve, self._dropped = curve, dropped
        self._logged_at = -QUIET_S
        self.feeds = {topic: Publisher(epoch=uuid.uuid4().hex) for topic in topics}
        self._topics = {_on_the_wire(topic) for topic in topics}
        self._socket = make_socket(context, zmq.XPUB, endpoint, MAX_SUBSCRIPTION_BYTES)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # a topic that another peer has already is told of too
        self._socket.setsockopt(zmq.RCVHWM, 8)
        self._door, self._close = bind(self._socket, endpoint, curve, dropped)

    def publish(self, topic: str, body: Message) -> None:
        """Send the next item of a topic; a subscriber that cannot take it sees the gap."""
        self._publish(topic, self.feeds[topic].item(body))

    def skip(self, topic: str) -> None:
        """Count an item that is longer than MAX_ITEM_BYTES, without making it: subscribers ask for a snapshot."""
        self._publish(topic, self.feeds[topic].skip())

    async def run(self) -> None:
        """Send heartbeats, and see who subscribes to what, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_subscriptions())
                while True:
                    for topic, feed in self.feeds.items():
                        self._publish(topic, feed.heartbeat())
                    await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._close()

    def _publish(self, topic: str, item: FeedItem) -> None:
        frame = encode(item)
        if len(frame) > MAX_ITEM_BYTES:
            frame = encode(self.feeds[topic].heartbeat())  # its number says that there was an item
        if not self._socket.closed:
            send(self._socket, [_on_the_wire(topic), frame])

    async def _watch_subscriptions(self) -> None:
        foreign: set[tuple[int, bytes]] = set()
        """Topics that we do not have, each with the descriptor of a peer that subscribes to it."""
        async for frames in received(self._socket, copy=False):
            descriptor, subscription = self._door.heard(frames[0]), frames[0].bytes
            topic = subscription[1:]
            if subscription[:1] == b"\0":
                # A connection that has ended is not named; whoever has the topic with it is counted one less.
                each = next((each for each in foreign if each[1] == topic and descriptor in (each[0], -1)), None)
                foreign.discard(each or (descriptor, topic))
            elif subscription[:1] == b"\1" and topic not in self._topics:
                foreign.add((descriptor, topic))
                if (greedy := _too_greedy(foreign)) is not None:
                    foreign = {each for each in foreign if each[0] != greedy}
                    self._cut(greedy, _sender(frames[0], self._curve))

    def _cut(self, descriptor: int, role: str) -> None:
        self._door.cut(descriptor)
        self._dropped("foreign-topics")
        if monotonic() > self._logged_at + QUIET_S:
            self._logged_at = monotonic()
            log.warning("a peer that subscribes to many topics that do not exist is cut", role=role)


def _too_greedy(foreign: Collection[tuple[int, bytes]]) -> int | None:
    """Return who has too many foreign topics, None if nobody has."""
    descriptor, count = Counts(whose for whose, _ in foreign).most_common(1)[0]
    return descriptor if count > MAX_FOREIGN_TOPICS or len(foreign) > MAX_FOREIGN_IN_ALL else None


def _on_the_wire(topic: str) -> bytes:
    return topic.encode() + b"\0"


def _sender(frame: zmq.Frame, curve: Curve | None) -> str:
    try:
        key = str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # there are no keys
    return curve.role(key) if curve is not None else ""
