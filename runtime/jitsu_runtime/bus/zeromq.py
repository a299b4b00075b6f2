"""The bus over ZeroMQ: DEALER to ROUTER for requests, XPUB to SUB for feeds.

The functions at the end make a caller, an owner and a feed from an endpoint. door.py limits how many peers may be
connected. A feed reads nothing from its subscribers but their subscriptions; see `ZmqFeed`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog
import zmq
import zmq.asyncio

from jitsu_protocol.wire.calls import MAX_WAITING_CALLS
from jitsu_protocol.wire.codec import HEADER_BYTES
from jitsu_runtime.bus.feed_server import FeedServer
from jitsu_runtime.bus.links import Incoming, Sent
from jitsu_runtime.bus.reader import Reader
from jitsu_runtime.bus.rpc_client import RpcClient
from jitsu_runtime.bus.rpc_server import RpcServer
from jitsu_runtime.bus.sockets import bind, connect, is_secured, make_socket, send, send_to
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.rarely import Rarely

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from jitsu_protocol.messages import Request
    from jitsu_runtime.bus.curve import Curve
    from jitsu_runtime.bus.links import CountDropped
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Handler

CURVE_BYTES = 1024
"""The most bytes that the transport adds to a message: encryption, and the frames of its own handshake."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""The most bytes of one peer that ZeroMQ may keep until this process reads them, if those are not LEAST_QUEUED."""
LEAST_QUEUED = 16
"""How many messages of one peer ZeroMQ keeps at least, however long they may be. A caller sends each request again
about twice a second while this process is too busy to read. When libzmq 4.3.5 has stopped reading a connection it
answers no heartbeats either. The caller then ends the connection after DEAD_MS, and heartbeats that were read and not
handled abort this process (sockets.py): a store that had too much to do for two seconds died. With 100 instead of 16,
a store under `make fuzz-peers` grew by 218 MB in ten minutes."""
MAX_QUEUED_REPLIES = 16
MAX_SUBSCRIPTION_BYTES = 1024
"""Enough for the handshake of CURVE; a topic has some ten. ZeroMQ keeps 50 bytes for each byte of a subscription."""
MAX_FOREIGN_TOPICS = 32
"""The most subscriptions of one peer to topics that do not exist here; a peer of another version may have some."""
MAX_FOREIGN_IN_ALL = 256

log = structlog.get_logger("bus")


def _uncounted(reason: str) -> None:
    log.debug("message dropped", reason=reason)


class ZmqCaller:
    """The DEALER of a caller."""

    def __init__(
        self, context: zmq.asyncio.Context, endpoint: str, owner: str, host: str = "", curve: Curve | None = None
    ) -> None:
        self._socket = make_socket(context, zmq.DEALER, endpoint)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for an owner that is away
        self._socket.setsockopt(zmq.SNDHWM, MAX_WAITING_CALLS)
        connect(self._socket, endpoint, owner, host, curve)

        self._reader: Reader | None = None

    def send(self, frame: bytes) -> bool:
        """Send without waiting; False if there is no owner to take it."""
        is_sent = send(self._socket, frame)
        if self._reader is not None:
            self._reader.look()
        return is_sent

    async def attend(self, take: Callable[[bytes], None]) -> None:
        """Give each reply to `take`."""
        self._reader = Reader(self._socket, lambda frames: take(frames[0]) if len(frames) == 1 else None)
        await self._reader.attend()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class ZmqOwner:
    """The ROUTER of an owner."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        longest: int,
        dropped: CountDropped,
        curve: Curve | None = None,
    ) -> None:
        """A message of more than `longest` bytes has its peer disconnected."""
        self._curve = curve if is_secured(curve, endpoint) else None
        longest += HEADER_BYTES + CURVE_BYTES
        self._socket = make_socket(context, zmq.ROUTER, endpoint, longest)
        self._socket.setsockopt(zmq.RCVHWM, max(LEAST_QUEUED, min(1000, MAX_QUEUED_BYTES // longest)))
        self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED_REPLIES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a full peer is an error instead of a dropped reply
        self._dropped = dropped
        self._door, self.close = bind(self._socket, endpoint, curve, dropped)

        self._reader: Reader | None = None

    def send(self, peer: bytes, frame: bytes) -> Sent:
        """Send to a peer without waiting."""
        if self._socket.closed:
            return Sent.GONE
        sent = send_to(self._socket, peer, frame)
        if self._reader is not None:
            self._reader.look()
        return sent

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        """Give each request to `take`."""

        def received(frames: list[zmq.Frame]) -> None:
            if len(frames) != 2:
                self._dropped("parts")
                return
            self._door.heard(frames[1])
            role = None if self._curve is None else self._curve.role(str(frames[1].get("User-Id")))
            take(Incoming(frames[0].bytes, frames[1].buffer, role))

        self._reader = Reader(self._socket, received, copy=False)
        await self._reader.attend()


class ZmqFollower:
    """The SUB of a follower."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        topic: str,
        owner: str = "",
        host: str = "",
        curve: Curve | None = None,
    ) -> None:
        self._socket = make_socket(context, zmq.SUB, endpoint)
        self._socket.setsockopt(zmq.SUBSCRIBE, _on_the_wire(topic))
        connect(self._socket, endpoint, owner, host, curve)

    async def attend(self, take: Callable[[bytes], None]) -> None:
        """Give each item to `take`."""
        await Reader(self._socket, lambda frames: take(frames[-1])).attend()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class ZmqFeed:
    """The XPUB of an owner.

    ZeroMQ keeps each subscription until its subscriber goes. So that peers cannot fill our memory with them, each is
    short, and those to topics that we do not have are counted for each peer. One that has more than MAX_FOREIGN_TOPICS
    is cut, or, when there are more than MAX_FOREIGN_IN_ALL, the one that has the most. Nobody else notices.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        topics: Sequence[str],
        dropped: CountDropped,
        curve: Curve | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._curve, self._dropped = curve, dropped
        self._cuts = Rarely(clock)
        self._topics = {_on_the_wire(topic) for topic in topics}
        self._foreign: set[tuple[int, bytes]] = set()
        """Topics that we do not have, each with the descriptor of a peer that subscribes to it."""
        self._reader: Reader | None = None
        self._socket = make_socket(context, zmq.XPUB, endpoint, MAX_SUBSCRIPTION_BYTES)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # a topic that another peer has already is reported too
        self._socket.setsockopt(zmq.RCVHWM, 8)
        self._door, self.close = bind(self._socket, endpoint, curve, dropped)

    def publish(self, topic: str, frame: bytes) -> None:
        """Send to all subscribers of a topic."""
        if not self._socket.closed:
            send(self._socket, _on_the_wire(topic), frame)
            if self._reader is not None:
                self._reader.look()

    async def attend(self) -> None:
        """Read subscriptions until cancelled."""
        self._reader = Reader(self._socket, self._subscribed, copy=False)
        await self._reader.attend()

    def _subscribed(self, frames: list[zmq.Frame]) -> None:
        descriptor, subscription = self._door.heard(frames[0]), frames[0].bytes
        topic, foreign = subscription[1:], self._foreign
        if subscription[:1] == b"\0":
            # ZeroMQ does not name a connection that has ended, so any peer with that topic is counted one less.
            each = next((each for each in foreign if each[1] == topic and descriptor in (each[0], -1)), None)
            foreign.discard(each or (descriptor, topic))
        elif subscription[:1] == b"\1" and topic not in self._topics:
            foreign.add((descriptor, topic))
            if (greedy := _too_greedy(foreign)) is not None:
                self._foreign = {each for each in foreign if each[0] != greedy}
                self._cut(greedy, _sender(frames[0], self._curve))

    def _cut(self, descriptor: int, role: str) -> None:
        self._door.cut(descriptor)
        self._dropped("foreign-topics")
        if self._cuts.is_due():
            log.warning("a peer that subscribes to many topics that do not exist is cut", role=role)


def _too_greedy(foreign: Collection[tuple[int, bytes]]) -> int | None:
    """Return the peer that has too many foreign topics, None if there is none."""
    descriptor, count = Counter(whose for whose, _ in foreign).most_common(1)[0]
    return descriptor if count > MAX_FOREIGN_TOPICS or len(foreign) > MAX_FOREIGN_IN_ALL else None


def _on_the_wire(topic: str) -> bytes:
    return topic.encode() + b"\0"


def _sender(frame: zmq.Frame, curve: Curve | None) -> str:
    try:
        key = str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # there are no keys
    return curve.role(key) if curve is not None else ""


def rpc_client(
    context: zmq.asyncio.Context, endpoint: str, owner: str, curve: Curve | None = None, host: str = ""
) -> RpcClient:
    """Connect to an owner's rpc; `host` says which vmd."""
    link = ZmqCaller(context, endpoint, owner, host, curve)
    return RpcClient(link, f"{owner} of {host}" if host else owner)


def rpc_server(
    context: zmq.asyncio.Context,
    endpoint: str,
    handlers: Mapping[type[Request], Handler],
    dropped: CountDropped = _uncounted,
    curve: Curve | None = None,
) -> RpcServer:
    """Bind an owner's rpc; raises SetupFault if the endpoint cannot be had."""
    link = ZmqOwner(context, endpoint, max(cls.max_bytes for cls in handlers), dropped, curve)
    return RpcServer(link, handlers, dropped)


def feed_server(
    context: zmq.asyncio.Context,
    endpoint: str,
    topics: Sequence[str],
    curve: Curve | None = None,
    dropped: CountDropped = _uncounted,
) -> FeedServer:
    """Bind an owner's feed; raises SetupFault if the endpoint cannot be had."""
    return FeedServer(ZmqFeed(context, endpoint, topics, dropped, curve), topics)
