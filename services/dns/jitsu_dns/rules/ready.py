"""Packets that are answered as they were before, byte for byte: the warm path.

A packet (all behind its id: flags, question in its case, EDNS) leads to what is sent behind the id, for as long as
the states of the VMs in that answer stay as they are. What is not needed for most packets has no place here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jitsu_dns.rules.access import Limited
from jitsu_dns.rules.message import Rcode

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Hashable, Sequence

    from jitsu_dns.rules.access import ResponseLimit
    from jitsu_dns.rules.table import Warm
    from jitsu_dns.rules.uses import Uses

MAX_PACKETS_KEPT = 200_000
MAX_KEPT_BYTES = 100 * 1024 * 1024
"""Random case (0x20) must not fill memory; so many packets with a short answer take about that."""
_PACKET_BYTES, _TAIL_BYTES = 350, 40
"""What Python needs for a packet and for each of its answers beside their own bytes."""


class Senders(Protocol):
    """Who sent the datagrams of a batch."""

    def keys(self) -> Sequence[Hashable]:
        """Return something for each of them that is the same for the same address."""

    def address(self, n: int) -> bytes:
        """Return the address of one of them, 4 or 16 bytes."""


@dataclass(slots=True)
class Ready:
    """What is sent for a packet that was seen before."""

    warm: Warm
    tails: tuple[bytes, ...]
    """Everything behind the id, in each order of the VMs."""

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return _PACKET_BYTES + sum(_TAIL_BYTES + len(tail) for tail in self.tails)


class ReadyPackets:
    """All packets that have a ready answer, and what was counted for them."""

    def __init__(self, uses: Uses, responses: ResponseLimit, counts: Counter[tuple[int, int, str]]) -> None:
        """`counts` are by type, rcode and path."""
        self._uses, self._responses, self._counts = uses, responses, counts
        self._packets: dict[bytes, Ready] = {}
        self.size_bytes = 0
        self._counting: list[Warm] = []

    def __len__(self) -> int:
        """Return how many packets have a ready answer."""
        return len(self._packets)

    def answers(self, datagrams: Sequence[bytes], now: float, senders: Senders | None) -> list[bytes | None]:
        """Return the answers to datagrams, b"" for one that is dropped; None for those that have none."""
        found = self._packets.get
        unlimited = self._responses.known_exempt
        keys = None if senders is None else senders.keys()
        answers: list[bytes | None] = []
        for data in datagrams:
            ready = found(data[2:])
            if ready is None or not ready.warm.valid:
                answers.append(None)
                continue
            warm, tails = ready.warm, ready.tails
            if keys is not None and senders is not None and keys[len(answers)] not in unlimited:
                n = len(answers)
                verdict = self._responses.judge(senders.address(n), warm, now, keys[n])
                if verdict is not Limited.SEND:
                    answers.append(b"" if verdict is Limited.DROP else _cut(data, tails[0]))
                    continue
            if not warm.count:
                self._counting.append(warm)
            warm.count += 1
            warm.used_at = now
            answers.append(data[:2] + (tails[0] if len(tails) == 1 else tails[warm.count % len(tails)]))
        return answers

    def keep(self, data: bytes, ready: Ready) -> None:
        """Keep what is sent for a packet."""
        packet = data[2:]
        self._forget(packet)
        self._packets[packet] = ready
        self.size_bytes += len(packet) + ready.size_bytes
        while len(self._packets) > MAX_PACKETS_KEPT or self.size_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._packets)))

    def _forget(self, packet: bytes) -> None:
        ready = self._packets.pop(packet, None)
        if ready is not None:
            self.size_bytes -= len(packet) + ready.size_bytes

    def clear(self) -> None:
        """Forget all packets."""
        self._packets.clear()
        self.size_bytes = 0

    def answered(self, warm: Warm, now: float) -> None:
        """Count an answer that was not ready yet."""
        if not warm.count:
            self._counting.append(warm)
        warm.count += 1
        warm.used_at = now

    def invalidate(self, warm: Warm) -> None:
        """Note that an answer holds no more; its packets are asked for anew."""
        warm.valid = False
        self._count(warm)

    def count(self, most: int) -> bool:
        """Bring what was counted to the names, for so many answers; say whether there are more."""
        for warm in self._counting[-most:]:
            self._count(warm)
        del self._counting[-most:]
        return bool(self._counting)

    def _count(self, warm: Warm) -> None:
        if warm.count:
            for held in warm.held:
                self._uses.used(held, warm.count, warm.used_at)
            self._counts[warm.qtype, Rcode.NOERROR, "warm"] += warm.count
            warm.count = 0


def _cut(data: bytes, tail: bytes) -> bytes:
    """Return a ready answer's truncated form: its header with TC, no records, and the question."""
    end = 12
    while data[end]:
        end += data[end] + 1
    flags = bytes((tail[0] | 0x02, tail[1]))
    return data[:2] + flags + b"\0\1" + bytes(6) + data[12 : end + 5]
