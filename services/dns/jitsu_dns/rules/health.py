"""What a forwarder has learnt about other servers: which of them fail, and what they cannot do.

A server that fails is asked last for a while that doubles with each failure. What a server turns out not to be able to
do (repeat the case of a name, EDNS) is remembered for HABIT_S, once it has answered without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_dns.rules.clients import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

HABIT_S = 3600.0
FIRST_PENALTY_S = 1.0
MAX_PENALTY_S = 30.0

Server = tuple[str, int]
"""Address and port."""


@dataclass
class Health:
    """What is known about the servers."""

    servers: Sequence[Server]
    addresses: frozenset[bytes] = frozenset()
    """Of the servers: a question that comes from one of them may be our own, on its way back."""
    _penalty: dict[Server, tuple[float, float]] = field(default_factory=dict)
    """Server -> until when it comes last, how long that is."""
    _one_case: dict[Server, float] = field(default_factory=dict)
    """Servers that give names back in another case -> until when that is believed."""
    _no_edns: dict[Server, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Know the servers by their addresses too."""
        self.addresses = self._addresses_of(self.servers)

    @staticmethod
    def _addresses_of(servers: Sequence[Server]) -> frozenset[bytes]:
        return frozenset(plain(ip_address(address).packed) for address, _ in servers)

    def order(self, now: float) -> list[Server]:
        """Return the servers, the healthiest first."""
        return sorted(self.servers, key=lambda each: max(0.0, self._penalty.get(each, (0.0, 0.0))[0] - now))

    def failed(self, server: Server, now: float) -> None:
        """Note a failure."""
        until, length = self._penalty.get(server, (0.0, FIRST_PENALTY_S / 2))
        if now >= until:
            length = min(2 * length, MAX_PENALTY_S)
            self._penalty[server] = (now + length, length)

    def answered(self, server: Server, now: float, *, mixed: bool, edns: bool) -> None:
        """Note an answer, to a question with or without mixed cases and EDNS."""
        self._penalty.pop(server, None)
        if not mixed and not self._is(self._one_case, server, now):
            self._one_case[server] = now + HABIT_S
        if not edns and not self._is(self._no_edns, server, now):
            self._no_edns[server] = now + HABIT_S

    def keeps_case(self, server: Server, now: float) -> bool:
        """Return whether a server gives names back as they were sent, as far as is known."""
        return not self._is(self._one_case, server, now)

    def has_edns(self, server: Server, now: float) -> bool:
        """Return whether a server knows EDNS, as far as is known."""
        return not self._is(self._no_edns, server, now)

    def replace(self, servers: Sequence[Server]) -> None:
        """Ask other servers from now on."""
        self.servers, self.addresses = servers, self._addresses_of(servers)
        for known in (self._penalty, self._one_case, self._no_edns):
            for server in [each for each in known if each not in servers]:
                del known[server]

    @staticmethod
    def _is(known: dict[Server, float], server: Server, now: float) -> bool:
        return now < known.get(server, 0.0)
