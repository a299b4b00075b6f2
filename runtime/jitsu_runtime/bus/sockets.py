"""Makes, binds and connects the ZeroMQ sockets of the bus, and sends without waiting."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import zmq
import zmq.asyncio

from jitsu_protocol.model import errors
from jitsu_protocol.wire.codec import MAX_FRAME_BYTES
from jitsu_runtime.bus.door import Door
from jitsu_runtime.bus.links import Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.bus.curve import Curve

RECONNECT_MS = 10
RECONNECT_MAX_MS = 50
"""A client reconnects within this time after its owner has returned; on tcp, CONNECT_MS may come before it. G7 allows a
second."""
HANDSHAKE_MS = 3000
"""A peer that has not ended its handshake by then is disconnected, because it holds a descriptor for nothing."""
BACKLOG = 2048
"""How many connections may wait to be accepted, one at a time (door.py). Waiting ones use no descriptor of ours."""
HEARTBEAT_MS, DEAD_MS = 500, 1500
"""After a failed send, whatever the reason, libzmq 4.3.5 sends nothing more on that connection but keeps it, until it
cannot read either (stream_engine_base.cpp, out_event). Only a heartbeat of the peer notices. On tcp, heartbeats also
notice that a network was cut and joined again before TCP's own retransmission does.

Clients send heartbeats. Owners answer them, and end a connection on which none has come for DEAD_MS
(ZMQ_HEARTBEAT_TTL). An owner sends none itself: libzmq 4.3.5 aborts a process that sends one on a connection that was
lost while a full socket kept libzmq from reading it (`Assertion failed: !_io_error` in out_event, called by
timer_event). Any peer could bring that about by sending more than is read at once and then dying.

A peer that fills the socket of an owner, sends heartbeats among its messages and then resets the connection brings
about the same: libzmq answers those heartbeats while it reads what is left. This is a fault of libzmq, which has no
release that fixes it (github.com/zeromq/libzmq, issues 3937, 4364, 4767 and 4841). Our own callers do not fill a socket
(LEAST_QUEUED in zeromq.py); a hostile one needs a key, or the rights to the socket's file."""
KEEPALIVE_S, KEEPALIVE_PROBES = 5, 3
"""TCP keepalive (tcp(7)), for peers of a version that sends owners no ZMQ_HEARTBEAT_TTL."""
MAX_UNREAD = 100_000
"""How many messages may wait in a client's socket. It must never be full, because then the same abort threatens the
client. Replies are limited by MAX_WAITING_CALLS, and an item of a feed has about half a kilobyte."""
NOBLOCK, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain numbers: each `|` of two flags of pyzmq makes a new member of an enum, which takes longer than a send."""
BOUND = frozenset({zmq.ROUTER, zmq.XPUB})
CONNECT_MS = 500


_UMASK = os.umask(0o022)
os.umask(_UMASK)
"""The umask that this process was started with. It decides who may use the ipc sockets, whatever is set later for
files (umask(2))."""


def bind(
    socket: zmq.Socket[Any], endpoint: str, curve: Curve | None, dropped: Callable[[str], None]
) -> tuple[Door, Callable[[], None]]:
    """Bind a socket; return its door and a function that closes both. Raises SetupFault if it cannot be bound.

    ZeroMQ takes over the ipc path of a running owner without an error. A lock file beside the path keeps a second owner
    away (flock(2)). The lock ends with the socket, or with the process, however that ends.
    """
    lock: int | None = None
    door: Door | None = None

    def close() -> None:
        if door is not None:
            door.unbinds()
        socket.close()
        if lock is not None:
            os.close(lock)

    try:
        if endpoint.startswith("ipc://"):
            lock = _lock(Path(endpoint.removeprefix("ipc://") + ".lock"), endpoint)
        door = Door(socket, endpoint, dropped, curve.failed_at(endpoint) if is_secured(curve, endpoint) else None)
        if is_secured(curve, endpoint):
            curve.bind(socket, endpoint, door.unbinds)
        else:
            socket.bind(endpoint)
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).chmod(0o777 & ~_UMASK)
    except errors.SetupFault:
        close()
        raise
    except (zmq.ZMQError, OSError) as error:
        close()
        raise errors.SetupFault(
            f"cannot bind {endpoint}: {error.strerror}", hint="is it in use, and may this user create it?"
        ) from None
    return door, close


def connect(socket: zmq.Socket[Any], endpoint: str, owner: str, host: str, curve: Curve | None) -> None:
    """Connect a socket to an owner; `host` is that of a vmd."""
    if is_secured(curve, endpoint):
        curve.connect(socket, endpoint, owner, host)
    else:
        socket.connect(endpoint)


def is_secured(curve: Curve | None, endpoint: str) -> TypeGuard[Curve]:
    """Return whether a socket at this endpoint uses keys."""
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


def make_socket(
    context: zmq.asyncio.Context, kind: int, endpoint: str, max_bytes: int = MAX_FRAME_BYTES
) -> zmq.Socket[Any]:
    """Return a new socket. It disconnects a peer that sends a message of more than `max_bytes`, unread."""
    plain: Any = zmq.Socket  # reader.py reads it, instead of pyzmq's asyncio sockets
    socket: zmq.Socket[Any] = context.socket(kind, socket_class=plain)
    if kind not in BOUND:
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, DEAD_MS)
        socket.setsockopt(zmq.RCVHWM, MAX_UNREAD)
    if endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        # Without this, the kernel would go on sending what a closed connection has not delivered for minutes. It would
        # ask for the peer's address once a second (ARP), and a peer that has returned would wait for the next request.
        socket.setsockopt(zmq.TCP_MAXRT, DEAD_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    return socket


def send(socket: zmq.Socket[Any], *frames: bytes) -> bool:
    """Send without waiting; return False if no peer can take the message, which is not queued then."""
    try:
        for frame in frames[:-1]:
            socket.send(frame, MORE)
        socket.send(frames[-1], NOBLOCK)
    except zmq.ZMQError:
        return False
    return True


def send_to(socket: zmq.Socket[Any], peer: bytes, frame: bytes) -> Sent:
    """Send to one peer of a ROUTER that has ROUTER_MANDATORY (zmq_setsockopt(3)), without waiting."""
    try:
        socket.send(peer, MORE)
        socket.send(frame, NOBLOCK)
    except zmq.ZMQError as error:
        return Sent.FULL if error.errno == zmq.EAGAIN else Sent.GONE
    return Sent.SENT
