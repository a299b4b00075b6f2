"""Warm answers: packets that are answered as they were before, byte for byte.

A packet (everything after its id: flags, question in its case, EDNS) leads to what is sent after the id, for as long as
the states of the VMs in that answer stay as they are. `answers` is the hot path: keep everything else out of it. Any
query that it leaves comes to `answer`, which prepares the answers of the next ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jitsu_dns.rules.events import Reply
from jitsu_dns.rules.lookup import Warm
from jitsu_dns.rules.message import HEADER_BYTES, NO_EXTRAS, Rcode, respond
from jitsu_dns.rules.rates import Limited

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from jitsu_dns.rules.events import Drop
    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.lookup import Held, Hit
    from jitsu_dns.rules.responder import Responder
    from jitsu_dns.rules.states import States
    from jitsu_dns.rules.usage import NameUsage

MAX_PACKETS_KEPT = 200_000
MAX_KEPT_BYTES = 100 * 1024 * 1024
"""Random case (0x20) must not fill the memory; so many packets with a short answer take about that much."""
MAX_TURNS = 16
"""In how many orders an answer with several VMs is kept."""
_PACKET_BYTES, _TAIL_BYTES = 350, 40
"""What Python needs for a packet and for each of its answers besides their own bytes."""
_OPT_BYTES = (0, 11)
"""How long the rest of a packet that is kept may be: there is no OPT record, or one without options."""


class Senders(Protocol):
    """The senders of a batch of datagrams."""

    def keys(self) -> Sequence[Hashable]:
        """Return something for each of them that is the same for the same address."""

    def address(self, n: int) -> bytes:
        """Return the address of one of them, 4 or 16 bytes."""


@dataclass(slots=True)
class WarmPacket:
    """What is sent for a packet that was seen before."""

    warm: Warm
    tails: tuple[bytes, ...]
    """Everything after the id, in each order of the VMs."""

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return _PACKET_BYTES + sum(_TAIL_BYTES + len(tail) for tail in self.tails)


class WarmAnswers:
    """All packets that have a warm answer, and what was counted for them."""

    def __init__(self, usage: NameUsage, states: States, responder: Responder) -> None:
        self._usage, self._states = usage, states
        self._limit, self._responder = responder.limit, responder
        self._packets: dict[bytes, WarmPacket] = {}
        self.size_bytes = 0
        self._counting: list[Warm] = []

    def __len__(self) -> int:
        """Return how many packets have a warm answer."""
        return len(self._packets)

    def answers(
        self, datagrams: Sequence[bytes], now: float, senders: Senders | None, *, limited: bool = True
    ) -> list[bytes | None]:
        """Return the answers to datagrams, b"" for one that is dropped; None for those that have no warm answer."""
        if not self._usage.lease.holds(now):
            return [None] * len(datagrams)
        found = self._packets.get
        unlimited = self._limit.known_exempt
        keys = senders.keys() if limited and senders is not None else None
        answers: list[bytes | None] = []
        for data in datagrams:
            packet = found(data[2:])
            if packet is None or not packet.warm.valid:
                answers.append(None)
                continue
            warm, tails = packet.warm, packet.tails
            if keys is not None and senders is not None and keys[len(answers)] not in unlimited:
                n = len(answers)
                verdict = self._limit.judge(senders.address(n), warm, now, keys[n])
                if verdict is not Limited.SEND:
                    answers.append(b"" if verdict is Limited.DROP else _cut(data, tails[0]))
                    continue
            if not warm.count:
                self._counting.append(warm)
                if senders is not None:
                    warm.client = senders.address(len(answers))
            warm.count += 1
            warm.used_at = now
            answers.append(data[:2] + (tails[0] if len(tails) == 1 else tails[warm.count % len(tails)]))
        return answers

    def answer(self, exchange: Exchange, hit: Hit, now: float) -> Reply | Drop | None:
        """Answer a query from what is known of its VMs' states; None if vmd has to be asked.

        The same packet is answered by `answers` from then on.
        """
        warm = self._warm_for(hit, now)
        if warm is None:
            return None
        if (instead := self._responder.over_limit(exchange, warm, now)) is not None:
            return instead
        self._add(warm, now, exchange.client.address)
        orders = min(len(warm.held), MAX_TURNS)
        response = _response(exchange, hit, warm, warm.count % orders)
        rest = len(exchange.data) - HEADER_BYTES - len(exchange.query.question)
        # Options that are not understood would make countless packets of one question.
        if exchange.client.udp and exchange.options is NO_EXTRAS and rest in _OPT_BYTES:
            tails = tuple(_response(exchange, hit, warm, first)[2:] for first in range(orders))
            self._keep(exchange.data, WarmPacket(warm, tails))
        return Reply(response)

    def _warm_for(self, hit: Hit, now: float) -> Warm | None:
        """Return what may be answered without asking vmd, None if that is nothing."""
        if not self._usage.lease.holds(now):
            return None
        warm = next((warm for warm in hit.node.warm if warm.qtype == hit.qtype), None)
        if warm is None:
            ready = tuple(held for held in hit.node.of_type(hit.qtype) if self._states.serves(held.vm))
            if not ready:
                return None
            warm = Warm(ready, hit.qtype)
            hit.node.warm = (*hit.node.warm, warm)
        return warm

    def _keep(self, data: bytes, kept: WarmPacket) -> None:
        """Keep what is sent for a packet."""
        packet = data[2:]
        self._forget(packet)
        self._packets[packet] = kept
        self.size_bytes += len(packet) + kept.size_bytes
        while len(self._packets) > MAX_PACKETS_KEPT or self.size_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._packets)))

    def _forget(self, packet: bytes) -> None:
        kept = self._packets.pop(packet, None)
        if kept is not None:
            self.size_bytes -= len(packet) + kept.size_bytes

    def clear(self) -> None:
        """Forget all packets."""
        self._packets.clear()
        self.size_bytes = 0

    def invalidate(self, held_by: Sequence[Held]) -> None:
        """Forget the warm answers for these names of a VM."""
        for held in held_by:
            for warm in held.node.warm:
                warm.valid = False
                self._count(warm)
            held.node.warm = ()

    # --- counts ---

    def count(self, most: int) -> bool:
        """Bring what was counted to the names, for so many answers; return whether there are more."""
        for warm in self._counting[-most:]:
            self._count(warm)
        del self._counting[-most:]
        return bool(self._counting)

    def _add(self, warm: Warm, now: float, client: bytes) -> None:
        if not warm.count:
            self._counting.append(warm)
            warm.client = client
        warm.count += 1
        warm.used_at = now

    def _count(self, warm: Warm) -> None:
        if warm.count:
            for held in warm.held:
                self._usage.used(held, warm.count, warm.used_at)
                if warm.client:
                    self._usage.sample(held, warm.qtype, warm.client, warm.used_at)
            self._responder.counts.answers[warm.qtype, Rcode.NOERROR, "warm"] += warm.count
            warm.count, warm.client = 0, b""


def _response(exchange: Exchange, hit: Hit, warm: Warm, first: int) -> bytes:
    """Return an answer that begins with the VM of that number."""
    records, udp = hit.records(warm.held, first), exchange.client.udp
    return respond(exchange.query, Rcode.NOERROR, records, udp=udp, extras=exchange.options)


def _cut(data: bytes, tail: bytes) -> bytes:
    """Return the truncated form of a warm answer: its header with TC, no records, and the question."""
    end = 12
    while data[end]:
        end += data[end] + 1
    flags = bytes((tail[0] | 0x02, tail[1]))
    return data[:2] + flags + b"\0\1" + bytes(6) + data[12 : end + 5]
