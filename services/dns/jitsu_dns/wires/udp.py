"""The UDP socket: drained in batches, as the kernel's wake-up costs more than a query."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, Address, Datagrams
from jitsu_protocol.errors import SetupFault

WarmPath = Callable[[Sequence[bytes], Datagrams], list[bytes | None]]
Received = Callable[[bytes, Address, bytes], bytes | None]

MAX_BATCHES = 8
"""Then the event loop sees to everybody else: TCP, vmd, timers."""
MAX_SLOW = 16
"""So many queries that have no ready answer are looked at in one turn; the others come after what has one."""
MAX_LEFT = 4096
"""So many wait for their turn, some 0.1 s of work; those beyond are dropped, and asked again by their clients."""
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
    """Return the fault that tells the operator what to do."""
    hints = {
        errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with dns.port (-l)",
        errno.EADDRINUSE: "another server has it; stop that one, or choose another with dns.port (-l)",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address; see dns.bind (-b)",
    }
    return SetupFault(
        f"cannot bind {protocol} {address} port {port}: {error.strerror}", hint=hints.get(error.errno or 0, "")
    )


class UdpServer:
    """Reads queries, writes what comes back: those with a ready answer first, whatever came before them."""

    def __init__(self, bound: socket.socket, warm: WarmPath, received: Received, after: Callable[[], None]) -> None:
        """`warm` answers what it can of a batch; each of the rest goes to `received`, with its sender.

        `after` is called after each turn.
        """
        self._socket = bound
        self._datagrams = Datagrams(bound)
        self._warm, self._received, self._after = warm, received, after
        self._left: deque[tuple[bytes, Address, bytes]] = deque()
        self.send = self._datagrams.send
        self.batch_s: Callable[[float], None] = lambda _: None
        """Told how long each batch took in which something was answered, from reading it to having answered it."""
        self.queries_dropped = 0
        """Because too many waited for their turn."""

    @property
    def dropped(self) -> int:
        """Responses that the kernel had no room for."""
        return self._datagrams.dropped

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._drain)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()
            self._left.clear()

    def _drain(self) -> None:
        datagrams = self._datagrams
        slow = 0
        for _ in range(MAX_BATCHES):
            begun = monotonic()
            queries = datagrams.receive()
            if not queries:
                break
            answers = self._warm(queries, datagrams)
            for n, answer in enumerate(answers):
                if answer is not None:
                    continue
                if slow < MAX_SLOW and not self._left:
                    slow += 1
                    answers[n] = self._received(queries[n], datagrams.client(n), datagrams.address(n))
                else:
                    self._leave(queries[n], datagrams.client(n), datagrams.address(n))
            datagrams.answer(answers)
            self.batch_s(monotonic() - begun)
            if len(queries) < BATCH_DATAGRAMS:
                break
        self._after()

    def _leave(self, query: bytes, client: Address, address: bytes) -> None:
        if len(self._left) >= MAX_LEFT:
            self.queries_dropped += 1
            return
        if not self._left:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._left.append((query, client, address))

    def _go_on(self) -> None:
        """Look at some of those that were left."""
        for _ in range(min(MAX_SLOW, len(self._left))):
            query, client, address = self._left.popleft()
            answer = self._received(query, client, address)
            if answer:
                self.send(answer, client)
        self._after()
        if self._left:
            asyncio.get_running_loop().call_soon(self._go_on)
