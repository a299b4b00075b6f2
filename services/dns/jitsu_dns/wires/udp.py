"""The UDP socket. It is read in batches, because to be woken by the kernel costs more than to answer a query."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, Address, DatagramSocket, SocketLost
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.clock import SYSTEM_CLOCK, Clock

WarmPath = Callable[[Sequence[bytes], DatagramSocket], list[bytes | None]]
Received = Callable[[bytes, Address, bytes], bytes | None]

MAX_BATCHES = 8
"""After these, the event loop does everything else: TCP, vmd, timers."""
MAX_SLOW = 16
"""Handle at most this many queries without a warm answer in one turn; the rest wait for those that have one."""
MAX_LEFT = 4096
"""At most this many wait for their turn, about 0.1 s of work. More are dropped, and their clients ask again."""
READ_PAUSE_S = 0.01
"""Pause after a read that failed, so that a lasting error does not keep the event loop busy."""
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024  # a burst of some thousand queries; the kernel caps it (net.core.rmem_max)


def bind_udp(address: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket; raises SetupFault."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise cannot_bind("UDP", address, port, error) from None
    return bound


def cannot_bind(protocol: str, address: str, port: int, error: OSError) -> SetupFault:
    """Return the fault, with a hint for the operator."""
    hints = {
        errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another port with dns.port (-l)",
        errno.EADDRINUSE: "another process uses it; stop that one, or choose another port with dns.port (-l)",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address; see dns.bind (-b)",
    }
    return SetupFault(
        f"cannot bind {protocol} {address} port {port}: {error.strerror}", hint=hints.get(error.errno or 0, "")
    )


class UdpServer:
    """Reads queries and writes answers. Queries with a warm answer overtake those without."""

    def __init__(self, bound: socket.socket, warm: WarmPath, received: Received, after: Callable[[], None]) -> None:
        """`warm` answers what it can of a batch; each of the rest goes to `received`, with its sender.

        `after` is called after each turn.
        """
        self._socket = bound
        self._datagrams = DatagramSocket(bound)
        self._warm, self._received, self._after = warm, received, after
        self._left: deque[tuple[bytes, Address, bytes]] = deque()
        self._slow = 0
        """Queries without a warm answer that were handled in this turn."""
        self._reads = True
        """Until `stop_reading`."""
        self._lost: asyncio.Future[None] | None = None
        """Fails when the socket is gone; `run` waits for it."""
        self.clock: Clock = SYSTEM_CLOCK
        self.batch_s: Callable[[float], None] = lambda _: None
        """Is given how long each batch took, from reading it to having sent its answers."""
        self.queries_dropped = 0
        """Queries that were dropped because too many waited for their turn."""

    @property
    def unsent(self) -> Counter[int]:
        """errno -> responses that the kernel refused to send."""
        return self._datagrams.unsent

    async def run(self) -> None:
        """Serve until cancelled; raises SocketLost."""
        loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        loop.add_reader(self._socket, self._drain)
        try:
            await self._lost
        finally:
            loop.remove_reader(self._socket)
            with suppress(OSError):  # if the socket is lost, that is the reason to report
                self._socket.close()
            self._left.clear()
            self._lost = None

    def stop_reading(self) -> None:
        """Leave what comes from now on in the socket for the next process; what was read is still answered."""
        self._reads = False
        if self._lost is not None:
            asyncio.get_running_loop().remove_reader(self._socket)

    @property
    def queries_left(self) -> int:
        """How many queries were read and wait for their turn."""
        return len(self._left)

    def send(self, data: bytes, client: Address) -> None:
        """Send one datagram. If that fails it is counted, and the caller need not know."""
        try:
            self._datagrams.send(data, client)
        except SocketLost as fault:
            self._end(fault)

    def _end(self, fault: SocketLost) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(fault)

    def _drain(self) -> None:
        self._slow = 0
        try:
            for _ in range(MAX_BATCHES):
                begun = self.clock.now()
                if not (taken := self._answer_batch()):
                    break
                self.batch_s(self.clock.now() - begun)
                if taken < BATCH_DATAGRAMS:
                    break
        except SocketLost as fault:
            self._end(fault)
        self._after()

    def _answer_batch(self) -> int:
        """Read a batch and answer what can be answered now; return how many datagrams it had."""
        datagrams = self._datagrams
        failed = datagrams.unread.total()
        queries = datagrams.receive()
        if datagrams.unread.total() > failed:
            self._pause()
        if not queries:
            return 0
        answers = self._warm(queries, datagrams)
        try:
            for n, answer in enumerate(answers):
                if answer is not None:
                    continue
                if self._slow < MAX_SLOW and not self._left:
                    self._slow += 1
                    answers[n] = self._received(queries[n], datagrams.client(n), datagrams.address(n))
                else:
                    self._leave(queries[n], datagrams.client(n), datagrams.address(n))
        finally:  # an exception for one query must not cost the others their answers
            datagrams.answer(answers)
        return len(queries)

    def _pause(self) -> None:
        """Read again in a while."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.call_later(READ_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._reads and self._lost is not None and not self._lost.done():
            asyncio.get_running_loop().add_reader(self._socket, self._drain)

    def _leave(self, query: bytes, client: Address, address: bytes) -> None:
        if len(self._left) >= MAX_LEFT:
            self.queries_dropped += 1
            return
        if not self._left:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._left.append((query, client, address))

    def _go_on(self) -> None:
        """Handle some of the queries that had to wait."""
        try:
            for _ in range(min(MAX_SLOW, len(self._left))):
                query, client, address = self._left.popleft()
                answer = self._received(query, client, address)
                if answer:
                    self.send(answer, client)
            self._after()
        finally:  # an exception for one query must not cost the others their turn
            if self._left:
                asyncio.get_running_loop().call_soon(self._go_on)
