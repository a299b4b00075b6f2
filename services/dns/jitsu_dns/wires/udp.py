"""The UDP socket: drained in batches, as the kernel's wake-up costs more than a query."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from jitsu_protocol.errors import SetupFault

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

BATCH_PACKETS = 64
MAX_PACKET_BYTES = 65535
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024  # a burst of some thousand queries; the kernel caps it (net.core.rmem_max)

SURVIVABLE_ERRNOS = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EPERM, errno.EMSGSIZE})
"""What sending to one client can fail with; it says nothing about the socket."""


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
    """Reads packets, writes what comes back."""

    def __init__(self, bound: socket.socket, received: Callable[[bytes, Hashable], bytes | None]) -> None:
        """`received` returns an answer that is ready, or None."""
        self._socket = bound
        self._received = received
        self.dropped = 0
        """Responses that the kernel had no room for."""

    async def run(self, after: Callable[[], None]) -> None:
        """Serve until cancelled; `after` is called after each batch."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._drain, after)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def send(self, client: tuple[str, int], data: bytes) -> None:
        """Send one packet; a client that cannot be reached is no error of ours."""
        try:
            self._socket.sendto(data, client)
        except BlockingIOError:
            self.dropped += 1
        except OSError as error:
            if error.errno not in SURVIVABLE_ERRNOS:
                raise

    def _drain(self, after: Callable[[], None]) -> None:
        receive = self._socket.recvfrom
        for _ in range(BATCH_PACKETS):
            try:
                data, client = receive(MAX_PACKET_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in SURVIVABLE_ERRNOS:
                    raise
                continue
            if client[1] == 0:
                continue  # port 0 cannot be answered
            answer = self._received(data, client)
            if answer is not None:
                self.send(client, answer)
        after()
