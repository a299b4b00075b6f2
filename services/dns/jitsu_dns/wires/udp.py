"""The UDP socket: drained in batches, as the kernel's wake-up costs more than a query."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, Address, Datagrams
from jitsu_protocol.errors import SetupFault

WarmPath = Callable[[Sequence[bytes], Datagrams], list[bytes | None]]
Received = Callable[[bytes, Address, bytes], bytes | None]

MAX_BATCHES = 8
"""Then the event loop sees to everybody else: TCP, vmd, timers."""
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
    """Reads queries, writes what comes back."""

    def __init__(self, bound: socket.socket, warm: WarmPath, received: Received) -> None:
        """`warm` answers what it can of a batch; each of the rest goes to `received`, with its sender."""
        self._socket = bound
        self._datagrams = Datagrams(bound)
        self._warm, self._received = warm, received
        self.send = self._datagrams.send

    @property
    def dropped(self) -> int:
        """Responses that the kernel had no room for."""
        return self._datagrams.dropped

    async def run(self, after: Callable[[], None]) -> None:
        """Serve until cancelled; `after` is called after each wake-up."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._drain, after)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _drain(self, after: Callable[[], None]) -> None:
        datagrams = self._datagrams
        for _ in range(MAX_BATCHES):
            queries = datagrams.receive()
            if not queries:
                break
            answers = self._warm(queries, datagrams)
            for n, answer in enumerate(answers):
                if answer is None:
                    answers[n] = self._received(queries[n], datagrams.client(n), datagrams.address(n))
            datagrams.answer(answers)
            if len(queries) < BATCH_DATAGRAMS:
                break
        after()
