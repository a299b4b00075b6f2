"""The real sockets of a replica: UDP and TCP for clients, UDP and TCP to other servers, NOTIFY, and rtnetlink."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING

from jitsu_dns.rules.files import Files, divided
from jitsu_dns.rules.forward import MAX_UNDER_WAY
from jitsu_dns.wires import interfaces
from jitsu_dns.wires.activation import inherited, is_activated
from jitsu_dns.wires.forward import ForwardSockets
from jitsu_dns.wires.notify import NotifySockets
from jitsu_dns.wires.tcp import TcpConnection, TcpServer, bind_tcp
from jitsu_dns.wires.udp import UdpServer, bind_udp
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.descriptors import raise_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence

    from jitsu_dns.wires.interfaces import OwnAddress
    from jitsu_dns.wires.sockets import Handler, Server
    from jitsu_runtime.settings.schema import DnsSettings
    from jitsu_runtime.world import World

ANY_PORT_TRIES = 20
"""A port that is free for UDP may be taken for TCP. With dns.port = 0 the kernel is then asked for another one."""


class RealSockets:
    """See wires/sockets.py; raises SetupFault if a socket cannot be bound."""

    def __init__(self, world: World) -> None:
        self._world = world
        settings = world.settings.dns
        self.is_inherited = is_activated()
        self._bound = _bound(settings)
        self.address, self.port = self._bound[0].getsockname()[:2]
        self._files, self.warnings = _limits(settings, len(world.settings.bus.vmds))
        self._observe: Callable[[float], None] = lambda _: None

    @property
    def max_forwards(self) -> int:
        """How many questions to other servers may be under way at once."""
        return self._files.forwards

    def serve(self, handler: Handler) -> None:
        """Begin to read."""
        world, (udp, tcp) = self._world, self._bound
        self._udp = UdpServer(udp, handler.warm, partial(handler.received, udp=True), handler.turn_ended)
        self._udp.batch_s, self._udp.clock = self._observe, world.clock
        self._tcp = TcpServer(
            lambda data, client: handler.received(data, client, client.address, udp=False),
            handler.gone,
            handler.turn_ended,
            max_connections=self._files.tcp,
            idle_s=world.settings.dns.tcp_idle,
        )
        self._forward = ForwardSockets(handler, world.spawn)
        self._notify = NotifySockets(handler, self.address)
        world.spawn(self._udp.run(), "udp")
        world.spawn(self._tcp.run(tcp), "tcp")

    def stop_reading(self) -> None:
        """Leave new datagrams in the socket for the next process that the service manager gives it to."""
        self._udp.stop_reading()

    def unhandled(self) -> int:
        """Return how many queries were read and are not handled yet."""
        return self._udp.queries_left

    def connections(self) -> int:
        """Return how many TCP connections are open."""
        return len(self._tcp.connections)

    def dropped_queries(self) -> int:
        """Return how many queries were dropped because too many arrived at once."""
        return self._udp.queries_dropped

    def unsent(self) -> dict[str, int]:
        """Return how many responses the kernel refused to send, by errno."""
        return {errno.errorcode.get(number, str(number)): count for number, count in self._udp.unsent.items()}

    def time_batches(self, observe: Callable[[float], None]) -> None:
        """Report how long each batch of datagrams took; to be called before `serve`."""
        self._observe = observe

    def send(self, client: Hashable, data: bytes) -> None:
        """Send one response over the transport that the client has used."""
        if isinstance(client, TcpConnection):
            client.send(data)
        elif isinstance(client, tuple):
            self._udp.send(data, client)

    def send_all(self, client: Hashable, messages: Iterator[bytes]) -> None:
        """Send messages over TCP, each when the client has accepted the one before."""
        if isinstance(client, TcpConnection):
            client.send_all(messages)

    def ask(self, attempt: int, server: Server, data: bytes, *, tcp: bool) -> None:
        """Send a question to another server."""
        self._forward.ask(attempt, server, data, tcp=tcp)

    def forget(self, attempt: int) -> None:
        """Close what `ask` has opened."""
        self._forward.forget(attempt)

    async def open_notify(self, servers: Sequence[Server]) -> None:
        """Bind the sockets from which secondaries are notified."""
        await self._notify.open(servers)

    def notify(self, server: Server, data: bytes) -> None:
        """Send a datagram to a secondary."""
        self._notify.send(server, data)

    def interfaces(self) -> list[OwnAddress]:
        """Ask the kernel for the addresses of this host."""
        return interfaces.own_interfaces()

    def address_changes(self) -> AsyncIterator[None]:
        """Follow the kernel's reports of changed addresses."""
        return interfaces.address_changes()


def _bound(settings: DnsSettings) -> tuple[socket.socket, socket.socket]:
    """Return the sockets for UDP and TCP, on the same port: those of the service manager, else new ones.

    Raises SetupFault.
    """
    if given := inherited():
        by_kind = {each.type: each for each in given}
        if len(given) != 2 or len(by_kind) != 2:
            raise SetupFault(
                "a replica takes one socket for UDP and one for TCP from the service manager",
                hint="give it one ListenDatagram= and one ListenStream=: 53 is all addresses, else a replica for each",
            )
        return by_kind[socket.SOCK_DGRAM], by_kind[socket.SOCK_STREAM]
    for left in reversed(range(ANY_PORT_TRIES)):
        udp = bind_udp(settings.bind, settings.port, reuse_port=settings.reuse_port)
        try:
            return udp, bind_tcp(settings.bind, udp.getsockname()[1], reuse_port=settings.reuse_port)
        except SetupFault:
            udp.close()
            if settings.port or not left:
                raise
    raise AssertionError("not reached")


def _limits(settings: DnsSettings, hosts: int) -> tuple[Files, list[str]]:
    """Raise this process's limit of open files to what is configured; return also a warning if that is not allowed."""
    forwards = MAX_UNDER_WAY if settings.forward else 0
    limit = raise_limit(divided(0, settings.max_tcp, forwards, hosts).wanted)
    files = divided(limit, settings.max_tcp, forwards, hosts)
    shortage = files.shortage(limit, settings.max_tcp)
    return files, [shortage] if shortage else []
