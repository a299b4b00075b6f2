"""DNS over TCP (RFC 7766): pipelined queries, answers in any order, and limits on what a client may hold.

Every client has its turn. In each turn of the event loop a bounded number of messages is handled, a few from each
connection that has some. So neither the other connections nor UDP wait for a client that sends without end. A
connection is in one of these states:

    state     what it has                                      it leaves this state when
    reading   no whole message                                 one has come: lined up; the client has closed: closed
    lined up  whole messages; nothing more is read             its turn comes: reading, lined up again, or blocked
    blocked   answers that the kernel does not accept yet;     the kernel has accepted them all: lined up, or reading
              nothing is read, nothing is handled
    closed    nothing

All that one client can make the server keep is one buffer of messages and the answers of one turn. Later answers, to
queries that waited, are sent in every state but closed; a client that does not read them is dropped.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.rules.clients import plain
from jitsu_dns.wires.udp import cannot_bind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

MAX_IN_A_TURN = 32
"""Messages of all connections together: one or two milliseconds of work."""
MAX_OF_ONE = 8
"""Messages of one connection before the next in line has its turn."""
MAX_ACCEPTS = 16
"""Connections accepted in one turn of the event loop."""
ACCEPT_PAUSE_S = 0.1
"""Pause after an accept that failed because descriptors or memory are short; some may be free again by then."""
SCARCE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BUFFER_BYTES = 4096
"""Read at most this much at once, about 100 queries. A longer message gets a buffer of its own length."""
MAX_MESSAGE_BYTES = 65535
MAX_UNREAD_BYTES = 64 * 1024
"""A client that does not read its answers is dropped beyond this."""
MAX_ALL = 4
"""One client may have asked for this many answers of many messages at the same time."""
BACKLOG = 512

log = structlog.get_logger("dns")


def bind_tcp(address: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket; raises SetupFault."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise cannot_bind("TCP", address, port, error) from None
    return bound


class TcpServer:
    """All connections."""

    def __init__(
        self,
        received: Callable[[bytes, TcpConnection], bytes | None],
        gone: Callable[[Hashable], None],
        after: Callable[[], None],
        *,
        max_connections: int,
        idle_s: float,
    ) -> None:
        """`received` returns an answer that is ready, or None; `gone` hears of closed connections."""
        self.received, self.gone, self.after = received, gone, after
        self.max_connections, self.idle_s = max_connections, idle_s
        self.connections: dict[TcpConnection, None] = {}
        """In the order of their latest query, so the one that has been silent for longest comes first."""
        self._line: deque[TcpConnection] = deque()
        self._transfers: deque[TcpConnection] = deque()
        """Connections that have more messages of a long answer to send."""
        self._is_turn_due = False
        self._is_scarce = False

    async def run(self, bound: socket.socket) -> None:
        """Accept and serve connections until cancelled."""
        loop = asyncio.get_running_loop()
        bound.listen(BACKLOG)
        loop.add_reader(bound, self._accept, bound)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(bound)
            bound.close()
            for connection in list(self.connections):
                connection.abort()

    def _accept(self, bound: socket.socket) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                accepted, peer = bound.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SCARCE_ERRNOS:
                    self._pause(bound, error)
                    return
                continue  # this client is gone already (accept(2), "Error handling")
            self._is_scarce = False
            accepted.setblocking(False)
            # From here on it counts, even if the client has reset it: then the first read says so.
            if len(self.connections) >= self.max_connections:
                next(iter(self.connections)).abort()
            host = peer[0].partition("%")[0]
            address = plain(socket.inet_pton(accepted.family, host))
            self.connections[TcpConnection(self, accepted, address)] = None

    def _pause(self, bound: socket.socket, error: OSError) -> None:
        """Accept again in a while, and close the connection that has been silent for longest to make room."""
        if not self._is_scarce:
            self._is_scarce = True
            log.warning(
                "TCP connections cannot be accepted; raise the limit of open files, or lower dns.max_tcp",
                reason=error.strerror,
                open=len(self.connections),
            )
        if self.connections:
            next(iter(self.connections)).abort()
        loop = asyncio.get_running_loop()
        loop.remove_reader(bound)
        loop.call_later(ACCEPT_PAUSE_S, self._resume, bound)

    def _resume(self, bound: socket.socket) -> None:
        if bound.fileno() >= 0:
            asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    def line_up(self, connection: TcpConnection) -> None:
        """Let a connection that has whole messages have its turn."""
        self._line.append(connection)
        self._want_turn()

    def transfer(self, connection: TcpConnection) -> None:
        """Let a connection send the next message of a long answer when it has its turn."""
        self._transfers.append(connection)
        self._want_turn()

    def _want_turn(self) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Handle some messages of those in line; the event loop sees to everybody else before the next turn."""
        self._is_turn_due = False
        left = MAX_IN_A_TURN
        try:
            while left > 0 and self._line:
                left -= max(1, self._line.popleft().handle(min(left, MAX_OF_ONE)))
            if self._transfers:
                self._transfers.popleft().send_next()
            self.after()
        finally:
            if self._line or self._transfers:
                self._want_turn()


class _Messages:
    """What was read from a connection and is not handled yet: messages, each with its length (RFC 1035, 4.2.2)."""

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER_BYTES)
        self._begin = self._end = 0

    def read(self, source: socket.socket) -> int:
        """Read what is there, as far as there is room; return how many bytes; raises OSError."""
        count = source.recv_into(memoryview(self._buffer)[self._end :])
        self._end += count
        return count

    def has_one(self) -> bool:
        """Return whether a whole message is there; if not, make room for the rest of it."""
        there = self._end - self._begin
        length = 2 + int.from_bytes(self._buffer[self._begin : self._begin + 2], "big") if there >= 2 else 2
        if there >= length:
            return True
        if self._begin or length > len(self._buffer):
            rest = self._buffer[self._begin : self._end]
            self._buffer = bytearray(max(BUFFER_BYTES, length))
            self._buffer[:there] = rest
            self._begin, self._end = 0, there
        return False

    def next(self) -> bytes | None:
        """Return the next message, None if no whole one is there."""
        if not self.has_one():
            return None
        start = self._begin + 2
        self._begin = start + int.from_bytes(self._buffer[self._begin : start], "big")
        return bytes(self._buffer[start : self._begin])


class _Transfers:
    """Answers of many messages that a client has asked for; the first is under way."""

    def __init__(self) -> None:
        self.is_lined_up = False
        self._answers: deque[Iterator[bytes]] = deque()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, messages: Iterator[bytes]) -> None:
        """Send these after all others."""
        self._answers.append(messages)

    def next(self) -> bytes | None:
        """Return the next message; None if there is none, or if one of the answers has ended."""
        if not self._answers:
            return None
        message = next(self._answers[0], None)
        if message is None:
            self._answers.popleft()
        return message

    def clear(self) -> None:
        """Forget them all."""
        self._answers.clear()


class TcpConnection:
    """One connection; the client that the rules see."""

    def __init__(self, server: TcpServer, accepted: socket.socket, address: bytes) -> None:
        """`address` is the client's, 4 or 16 bytes."""
        self.address = address
        self._server, self._socket = server, accepted
        self._loop = asyncio.get_running_loop()
        self._messages = _Messages()
        self._unsent = b""
        self._transfers = _Transfers()
        self._is_reading = self._is_in_line = self._is_at_end = False
        self._heard_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(server.idle_s, self._look_whether_idle)
        """Until the connection is closed."""
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._go_on()

    @property
    def _is_open(self) -> bool:
        return self._timer is not None

    def handle(self, most: int) -> int:
        """Handle at most that many messages; return how many there were. Called by the server when it is its turn."""
        self._is_in_line = False
        answers: list[bytes] = []
        handled = 0
        is_sound = False
        try:
            while self._is_open and handled < most and (message := self._messages.next()) is not None:
                handled += 1
                answer = self._server.received(message, self)
                if answer:
                    answers.append(_framed(answer))
            is_sound = True
        finally:
            if not is_sound:
                self.abort()
        if handled and self._is_open:
            self._heard_at = self._loop.time()
            self._server.connections[self] = self._server.connections.pop(self)
            self._write(b"".join(answers))
            self._go_on()
        return handled

    def send(self, data: bytes) -> None:
        """Send one message, if the client is still there and reads."""
        if len(self._unsent) > MAX_UNREAD_BYTES:
            self.abort()
        elif self._is_open:
            self._write(_framed(data))

    def send_all(self, messages: Iterator[bytes]) -> None:
        """Send messages, each made when the client has accepted those before; others are served in between."""
        if not self._is_open or len(self._transfers) >= MAX_ALL:
            self.abort()
            return
        self._transfers.add(messages)
        self._go_on()

    def send_next(self) -> None:
        """Send the next message of a long answer. Called by the server when it is its turn."""
        self._transfers.is_lined_up = False
        if self._is_open and (message := self._transfers.next()) is not None:
            self.send(message)
        self._go_on()

    def abort(self) -> None:
        """Close at once, and forget all that waits for this client."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._read(False)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._transfers.clear()
        self._server.connections.pop(self, None)
        self._server.gone(self)

    # --- below ---

    def _go_on(self) -> None:
        """Enter the state that fits: see the table at the top."""
        if not self._is_open:
            return
        is_free = not self._unsent
        if len(self._transfers) and is_free and not self._transfers.is_lined_up:
            self._transfers.is_lined_up = True
            self._server.transfer(self)
        if self._is_in_line:
            return
        has_message = is_free and self._messages.has_one()
        if has_message:
            self._is_in_line = True
            self._server.line_up(self)
        elif is_free and self._is_at_end and not len(self._transfers):
            self.abort()
            return
        self._read(is_free and not has_message and not self._is_at_end)

    def _read(self, wanted: bool) -> None:
        if wanted is not self._is_reading:
            self._is_reading = wanted
            if wanted:
                self._loop.add_reader(self._socket, self._readable)
            else:
                self._loop.remove_reader(self._socket)

    def _readable(self) -> None:
        try:
            count = self._messages.read(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        self._is_at_end = not count
        self._go_on()

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        sent = self._try_to_send(data)
        if sent < len(data) and self._is_open:
            self._unsent = data[sent:]
            self._loop.add_writer(self._socket, self._writable)
            self._go_on()

    def _writable(self) -> None:
        self._unsent = self._unsent[self._try_to_send(self._unsent) :]
        if self._is_open and not self._unsent:
            self._loop.remove_writer(self._socket)
            if len(self._transfers):
                self._heard_at = self._loop.time()  # it has read: it is not idle
            self._go_on()

    def _try_to_send(self, data: bytes) -> int:
        """Give the kernel what it accepts; return how much that was. An error ends this connection only."""
        try:
            return self._socket.send(data) if data else 0
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.abort()
            return 0

    def _look_whether_idle(self) -> None:
        left = self._heard_at + self._server.idle_s - self._loop.time()
        if left <= 0:
            self.abort()
        else:
            self._timer = self._loop.call_later(left, self._look_whether_idle)


def _framed(message: bytes) -> bytes:
    """Return a message with its length before it (RFC 1035, 4.2.2); nothing for one that is too long for that."""
    return len(message).to_bytes(2, "big") + message if len(message) <= MAX_MESSAGE_BYTES else b""
