"""The sockets over which secondaries are told of changes: performs what rules/notify.py wants sent."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_runtime.driver import Alarm

if TYPE_CHECKING:
    from jitsu_dns.rules.notify import Notifier
    from jitsu_runtime.clock import Clock

log = structlog.get_logger("dns")


class NotifySockets:
    """One socket per address family, bound to the server's own address: secondaries listen to that one only."""

    def __init__(self, notifier: Notifier, bind: str, clock: Clock) -> None:
        self._notifier = notifier
        self._bind = ip_address(bind)
        self._transports: dict[int, asyncio.DatagramTransport] = {}
        self._alarm = Alarm(self.go_on, clock)

    async def open(self) -> None:
        """Bind."""
        for version in sorted({ip_address(address).version for address, _ in self._notifier.secondaries}):
            any_address = "0.0.0.0" if version == 4 else "::"
            own = str(self._bind) if self._bind.version == version else any_address
            loop = asyncio.get_running_loop()
            self._transports[version], _ = await loop.create_datagram_endpoint(
                lambda: _Answers(self._notifier), local_addr=(own, 0)
            )
        self.go_on()

    def go_on(self) -> None:
        """Send what is due, and arm the one timer."""
        if not self._transports:
            return
        unheard = self._notifier.unheard
        for each in self._notifier.passed(monotonic()):
            self._transports[ip_address(each.server[0]).version].sendto(each.data, each.server)
        if self._notifier.unheard > unheard:
            log.warning("a secondary did not acknowledge a NOTIFY; it will notice the change at its next refresh")
        self._alarm.set(self._notifier.next_deadline())


class _Answers(asyncio.DatagramProtocol):
    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._notifier.answered((addr[0], addr[1]), data)
