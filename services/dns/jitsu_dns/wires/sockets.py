"""What a replica needs of the network besides the bus, as an interface.

There are two implementations. The real one is in network.py. The one in tests/support/dns_sockets.py lets a whole
replica run without a socket, for example on the virtual time of tests/simulation/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence

    from jitsu_dns.rules.warm import Senders
    from jitsu_dns.wires.interfaces import OwnAddress

Server = tuple[str, int]
"""Address and port of another DNS server."""


class Handler(Protocol):
    """The side of the replica that the sockets call."""

    def warm(self, queries: Sequence[bytes], senders: Senders) -> list[bytes | None]:
        """Return the answers to a batch of datagrams that are ready; None where there is none."""

    def received(self, data: bytes, client: Hashable, address: bytes, *, udp: bool) -> bytes | None:
        """Handle one query; return what is sent back at once, if anything. `address` has 4 or 16 bytes."""

    def gone(self, client: Hashable) -> None:
        """Note that a client has closed its connection."""

    def turn_ended(self) -> None:
        """Note that some queries have been handled, and that now is the time for everything else."""

    def response_received(self, attempt: int, data: bytes, *, tcp: bool) -> None:
        """Handle what another server sent in response to `ask`."""

    def attempt_failed(self, attempt: int, reason: str) -> None:
        """Note that `ask` did not reach its server."""

    def notify_answered(self, server: Server, data: bytes) -> None:
        """Handle a datagram from a secondary."""


class Sockets(Protocol):
    """The sockets of one replica, and what its host says about the network."""

    address: str
    """The IP address that clients ask; the unspecified one stands for all addresses of this host."""
    port: int
    is_inherited: bool
    """The sockets belong to the service manager, and outlive this process."""
    warnings: list[str]
    """What an operator should fix so that the sockets can serve as configured."""

    @property
    def max_forwards(self) -> int:
        """How many questions to other servers may be under way at once."""

    def serve(self, handler: Handler) -> None:
        """Begin to read."""

    def stop_reading(self) -> None:
        """Read no more datagrams; what was read is still answered."""

    def unhandled(self) -> int:
        """Return how many queries were read and are not handled yet."""

    def connections(self) -> int:
        """Return how many TCP connections are open."""

    def dropped_queries(self) -> int:
        """Return how many queries were dropped because too many arrived at once."""

    def unsent(self) -> dict[str, int]:
        """Return how many responses could not be sent, by the name of the error."""

    def time_batches(self, observe: Callable[[float], None]) -> None:
        """Report how long each batch of datagrams took, in seconds."""

    def send(self, client: Hashable, data: bytes) -> None:
        """Send one response; if the client is gone, nothing happens."""

    def send_all(self, client: Hashable, messages: Iterator[bytes]) -> None:
        """Send messages to a client over TCP, each when the client has accepted the one before."""

    def ask(self, attempt: int, server: Server, data: bytes, *, tcp: bool) -> None:
        """Send a question to another server, from a port of its own."""

    def forget(self, attempt: int) -> None:
        """Close what `ask` has opened."""

    async def open_notify(self, servers: Sequence[Server]) -> None:
        """Open what `notify` needs for these secondaries."""

    def notify(self, server: Server, data: bytes) -> None:
        """Send a datagram to a secondary."""

    def interfaces(self) -> list[OwnAddress]:
        """Return the addresses of this host; raises OSError."""

    def address_changes(self) -> AsyncIterator[None]:
        """Yield each time the addresses of this host may have changed."""
