"""Limits how many peers may be connected to a bound socket of the bus, so that its process keeps free descriptors.

libzmq accepts every connection, up to 12,000 a second (measured), and has no limit of its own. When no descriptor is
left, version 4.3.5 aborts the process if the socket is on ipc (ipc_listener.cpp); on tcp it tries again without a
pause. So each bound socket has a door: a thread that reads what libzmq reports about the socket
(zmq_socket_monitor(3)).

    a connection is     from                                    until
    new                 libzmq has accepted it                  the first message of its peer has been read
    known               its first message has been read         it ends
    leaving             the door has cut it                     it ends

When there are more connections than `most`, the door cuts the oldest that is new; if all are known, it cuts the one
that came last. So peers that send nothing cannot keep others out for long, and known peers notice nothing. A peer that
is cut connects again by itself, and its calls are sent again. libzmq itself cuts a connection whose handshake has not
ended after HANDSHAKE_MS (sockets.py).

    the listener is     until
    armed               libzmq has accepted one connection
    disarmed            the door has noted that connection, and there are at most `most`

A thread that only watched would come too late on a busy machine. The door therefore sets EPOLLONESHOT (epoll_ctl(2)) on
the listener's entry in libzmq's epoll set, so that libzmq accepts one connection at a time. If the entry cannot be
found (proc(5), /proc/PID/fdinfo), the door just cuts connections as fast as it can.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket as system
import threading
from contextlib import suppress
from pathlib import Path
from struct import Struct
from time import sleep
from typing import TYPE_CHECKING, Any

import structlog
import zmq
import zmq.asyncio

from jitsu_runtime.descriptors import connections_allowed
from jitsu_runtime.rarely import Rarely

if TYPE_CHECKING:
    from collections.abc import Callable

FOLLOWED = (
    zmq.EVENT_LISTENING
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_MONITOR_STOPPED
)
HANDSHAKE_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""The second kind is reported when the peer was the first to see that the keys do not match, and has disconnected."""
VERIFY_MS = 500
"""How often a full door checks for connections that have ended without a report."""
FIND_TRIES, FIND_S = 100, 0.005
"""How often the entry of a listener is searched for: libzmq adds it a moment after it has reported the listener."""
EPOLL_CTL_MOD, EPOLLIN, EPOLLONESHOT = 3, 0x1, 1 << 30
_EVENT = Struct("=IQ" if os.uname().machine == "x86_64" else "@IQ")
"""struct epoll_event (epoll_event(3type)), which is packed on x86-64 only."""
_SRCFD = int(zmq.SRCFD)
_REPORT = Struct("=HI")
_NUMBERS = itertools.count()
_LIBC: Any = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger("bus")


class Door:
    """Counts and limits the connections of one socket, from before it is bound until it is closed."""

    def __init__(
        self,
        socket: zmq.Socket[Any],
        endpoint: str,
        dropped: Callable[[str], None],
        failed: Callable[[], None] | None = None,
    ) -> None:
        """`dropped` counts each cut; `failed` is called on the door's thread for each peer whose handshake fails."""
        self._endpoint, self._dropped, self._failed = endpoint, dropped, failed
        self.most = connections_allowed()
        self._listener = _Listener()
        self._new: dict[int, None] = {}
        """The descriptors of new connections, the oldest first."""
        self._known: set[int] = set()
        self._leaving: set[int] = set()
        self._early: set[int] = set()
        """Descriptors whose first message was read before libzmq had reported the connection."""
        self._lock = threading.Lock()
        self._cuts = Rarely()
        address = f"inproc://door-{next(_NUMBERS)}"
        socket.monitor(address, FOLLOWED | (HANDSHAKE_FAILED if failed is not None else 0))
        self._reports: zmq.Socket[Any] = zmq.Context.shadow(socket.context).socket(zmq.PAIR)
        self._reports.setsockopt(zmq.LINGER, 0)
        self._reports.connect(address)
        threading.Thread(target=self._follow, name="door", daemon=True).start()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._new) + len(self._known) + len(self._leaving)

    def heard(self, frame: zmq.Frame) -> int:
        """Note that the sender of a frame is known; return its descriptor, or -1 if it has gone."""
        try:
            descriptor = int(frame.get(_SRCFD))
        except zmq.ZMQError:
            return -1
        if descriptor not in self._known:
            with self._lock:
                if descriptor in self._new:
                    del self._new[descriptor]
                    self._known.add(descriptor)
                elif descriptor not in self._leaving:
                    self._early.add(descriptor)
        return descriptor

    def cut(self, descriptor: int) -> None:
        """Shut a connection down if it belongs to this socket; to libzmq it looks as if the peer had gone."""
        with suppress(OSError), _Borrowed(descriptor) as connection:
            if self._is_ours(connection):
                connection.shutdown(system.SHUT_RDWR)

    def unbinds(self) -> None:
        """Leave the listener alone from now on; call this before the socket is closed or unbound."""
        self._listener.forget()

    def _is_ours(self, connection: system.socket) -> bool:
        """Return whether a descriptor is a connection to our endpoint: by now it may belong to something else."""
        name = connection.getsockname()
        if isinstance(name, tuple):
            return self._endpoint.endswith(f":{name[1]}")
        return self._endpoint == f"ipc://{name}"

    # --- the thread ---

    def _follow(self) -> None:
        """Read reports until the socket is closed: libzmq would block if this reader left earlier."""
        try:
            while True:
                is_full = self.connections > self.most
                if self._reports.poll(VERIFY_MS if is_full else None):
                    event, value = _REPORT.unpack(self._reports.recv_multipart()[0])
                    if event == zmq.EVENT_MONITOR_STOPPED:
                        return
                    self._reported(event, value)
                else:
                    self._verify()
                if self.connections <= self.most:
                    self._listener.arm()
        except zmq.ZMQError:  # the context was destroyed
            return
        finally:
            self._reports.close()

    def _reported(self, event: int, descriptor: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._listener.has_accepted()
            self._accepted(descriptor)
        elif event == zmq.EVENT_ACCEPT_FAILED:
            self._listener.has_accepted()
        elif event == zmq.EVENT_DISCONNECTED:
            with self._lock:
                self._forget(descriptor)
        elif event == zmq.EVENT_LISTENING:
            self._listener.found(descriptor)
        elif event == zmq.EVENT_CLOSED:  # with the listener all that it has accepted ends, without a report of each
            with self._lock:
                for each in (*self._new, *self._known, *self._leaving):
                    self._forget(each)
        elif self._failed is not None:
            self._failed()

    def _accepted(self, descriptor: int) -> None:
        with self._lock:
            self._forget(descriptor)
            if descriptor in self._early:
                self._early.discard(descriptor)
                self._known.add(descriptor)
            else:
                self._new[descriptor] = None
            if self.connections <= self.most:
                return
            last = next(iter(self._new), descriptor)
            self._forget(last)
            self._leaving.add(last)
        self.cut(last)
        self._dropped("too-many-connections")
        if self._cuts.is_due():
            log.warning("too many connections: some are cut", endpoint=self._endpoint, allowed=self.most)

    def _verify(self) -> None:
        """Forget the connections that have ended without a report."""
        with self._lock:
            for descriptor in (*self._new, *self._known, *self._leaving):
                is_there = False
                with suppress(OSError), _Borrowed(descriptor) as connection:
                    is_there = self._is_ours(connection)
                if not is_there:
                    self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        self._new.pop(descriptor, None)
        self._known.discard(descriptor)
        self._leaving.discard(descriptor)


class _Listener:
    """The entry of a listener in libzmq's epoll set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entry: tuple[int, int, int] | None = None
        """The epoll descriptor, the listener's descriptor, and the data that libzmq has stored with it."""
        self._is_armed = False

    def found(self, descriptor: int) -> None:
        """Find the entry of a listener that libzmq has just reported."""
        for _ in range(FIND_TRIES):
            with self._lock:
                self._entry, self._is_armed = _entry_of(descriptor), False
                if self._entry is not None:
                    return
            sleep(FIND_S)
        log.debug("the listener is not in an epoll set: connections are only cut")

    def has_accepted(self) -> None:
        """Note that libzmq has accepted a connection, or has tried to."""
        self._is_armed = False

    def arm(self) -> None:
        """Let libzmq accept the next connection."""
        with self._lock:
            if self._entry is None or self._is_armed:
                return
            epoll, descriptor, data = self._entry
            event = _EVENT.pack(EPOLLIN | EPOLLONESHOT, data)
            self._is_armed = _LIBC.epoll_ctl(epoll, EPOLL_CTL_MOD, descriptor, event) == 0

    def forget(self) -> None:
        """Do not touch the entry again: its descriptor is about to be closed, and may be reused."""
        with self._lock:
            self._entry = None


def _entry_of(descriptor: int) -> tuple[int, int, int] | None:
    """Return the entry of a descriptor in an epoll set of this process: tfd and data in /proc/self/fdinfo."""
    line = re.compile(rf"^tfd:\s+{descriptor}\s+events:\s+[0-9a-f]+\s+data:\s+([0-9a-f]+)", re.MULTILINE)
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                found = line.search(Path(f"/proc/self/fdinfo/{name}").read_text(encoding="ascii"))
                if found is not None:
                    return int(name), descriptor, int(found[1], 16)
    return None


class _Borrowed:
    """A socket object for a descriptor of libzmq: never closed here, nor duplicated, as no descriptor may be left."""

    def __init__(self, descriptor: int) -> None:
        self._socket = system.socket(fileno=descriptor)

    def __enter__(self) -> system.socket:
        """Return the socket object."""
        return self._socket

    def __exit__(self, *_: object) -> None:
        """Leave the descriptor open."""
        self._socket.detach()
