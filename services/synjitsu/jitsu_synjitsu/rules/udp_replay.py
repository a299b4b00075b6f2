"""The UDP datagrams that are replayed to a guest, whose sockets may not be open yet.

    a port of the guest has                then
    datagrams that were not sent           the first of them, once the guest reaches its client or has had its time
    one that was sent less than TRIAL_S    the others wait: of many refusals Linux reports only six
    ago, and nothing has come back
    answered one, or not refused the       the port is open: all others are sent, oldest first
    first for TRIAL_S
    refused one                            that one is sent again in RETRY_S, then in twice that, and so on
    not refused one for UDP_WATCH_S        that one is done with: a datagram is refused at once or not at all
    answered one that it was not sent      that one is done with: the bridge has delivered it

No datagram is sent again that the guest has not refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind, Seen
from jitsu_synjitsu.rules.probes import RETRY_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_synjitsu.rules.kept import Item

MAX_RETRY_S = 1.0
"""Linux reports one refusal a second to each client after the first six (icmp(7), icmp_ratelimit)."""
UDP_WATCH_S = 0.1
TRIAL_S = 0.02


@dataclass
class _Datagram:
    """A UDP datagram, whole or in fragments."""

    parts: Sequence[Item]
    due: float = 0.0
    """Not sent before."""
    sent_at: float | None = None
    """None: not sent, or refused."""
    retry_s: float = RETRY_S

    @property
    def first(self) -> Item:
        """Return the part that has the ports."""
        return next(part for part in self.parts if part.seen.kind is Kind.UDP)

    def header(self, mac: bytes) -> tuple[bytes, bytes]:
        """Return the client, and the UDP header that the guest has received."""
        at = self.first.seen.payload_at
        sent = frames.replayed(self.first.frame, self.first.seen, mac)
        return self.first.seen.sender, sent[at : at + frames.UDP_HEADER_BYTES]


@dataclass
class _UdpPort:
    """The datagrams for one UDP port of the guest, oldest first."""

    datagrams: list[_Datagram] = field(default_factory=list)
    is_open: bool = False
    """The guest has answered from it, or has not refused the first datagram."""

    def deadline(self, reached: set[bytes], unproven_until: float) -> float:
        due = float("inf")
        for datagram in self.datagrams if self.is_open else self.datagrams[:1]:
            if datagram.sent_at is not None:
                due = min(due, datagram.sent_at + (UDP_WATCH_S if self.is_open else TRIAL_S))
            else:
                due = min(due, datagram.due if datagram.first.seen.sender in reached else unproven_until)
        return due

    def replay(self, may_send: Callable[[bytes], bool], now: float) -> list[Item]:
        sent: list[Item] = []
        waiting = []
        for n, datagram in enumerate(self.datagrams):
            if datagram.sent_at is None:
                is_behind = n > 0 and not self.is_open
                if is_behind or now < datagram.due or not may_send(datagram.first.seen.sender):
                    waiting.append(datagram)
                    continue
                datagram.sent_at = now
                sent += datagram.parts
            if now >= datagram.sent_at + TRIAL_S:
                self.is_open = True
            if now < datagram.sent_at + UDP_WATCH_S:
                waiting.append(datagram)
        self.datagrams = waiting
        return sent


@dataclass
class UdpReplay:
    """All datagrams for one address."""

    _ports: dict[int, _UdpPort] = field(default_factory=dict, init=False)

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return any(port.datagrams for port in self._ports.values())

    def add(self, parts: Sequence[Item]) -> bool:
        """Take in a datagram, whole or in fragments; return whether its ports are known."""
        first = next((part for part in parts if part.seen.kind is Kind.UDP), None)
        if first is None:
            return False
        self._ports.setdefault(first.seen.target_port, _UdpPort()).datagrams.append(_Datagram(parts))
        return True

    def replay(self, may_send: Callable[[bytes], bool], now: float) -> list[Item]:
        """Return what the guest is to be sent now; `may_send` says whether it is sent packets of a client yet."""
        return [item for port in self._ports.values() for item in port.replay(may_send, now)]

    def deadline(self, reached: set[bytes], unproven_until: float) -> float:
        """Return when to call `replay`; infinity if there is nothing to wait for."""
        return min((port.deadline(reached, unproven_until) for port in self._ports.values()), default=float("inf"))

    def answered(self, reply: Seen, answers: Callable[[Seen, Seen], bool]) -> None:
        """Look at a datagram of the guest; `answers` says whether it belongs to the flow of a kept one."""
        if (port := self._ports.get(reply.source_port)) is None:
            return
        port.is_open = True
        flow = [each for each in port.datagrams if answers(reply, each.first.seen)]
        if all(each.sent_at is None for each in flow):
            port.datagrams = [each for each in port.datagrams if each not in flow]

    def refused(self, reply: Seen, mac: bytes, now: float) -> None:
        """Have a datagram sent again that the guest has refused."""
        port = self._ports.get(reply.source_port, _UdpPort())
        for datagram in port.datagrams:
            if datagram.sent_at is not None and datagram.header(mac) == (reply.target, reply.quoted):
                datagram.sent_at, datagram.due = None, now + datagram.retry_s
                datagram.retry_s = min(2 * datagram.retry_s, MAX_RETRY_S)
                return

    def take_left(self) -> list[Item]:
        """Take out what the guest has not been sent, or has refused."""
        left = [each for port in self._ports.values() for each in port.datagrams if each.sent_at is None]
        self._ports = {}
        return [part for datagram in left for part in datagram.parts]
