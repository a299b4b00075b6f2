"""A load that moves over many names: some are asked for often, new ones come in, old ones are left alone.

    python -m bench.scale_load PORT NAMES RATE WINDOW NEW_PER_S

NAMES is a file with a line `name address` for each name. WINDOW names are asked for at any time; NEW_PER_S times a
second the window moves on by one name. Until it is stopped, it prints a line of JSON for each second: how many
questions were sent and answered, which answers were wrong, the latencies in milliseconds, and the longest time without
an answer. One process, one socket; CLOCK_MONOTONIC is one clock for all processes of a host (clock_gettime(2)).
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

TURN_S = 0.001
LOST_AFTER_S = 5.0
"""glibc's stub resolver asks again after 5 s (resolv.conf(5))."""
NXDOMAIN, SERVFAIL = 3, 2


@dataclass
class Second:
    """What happened within one second."""

    at: float
    sent: int = 0
    answered: int = 0
    wrong: int = 0
    """Answers with another address than the VM's."""
    nxdomain: int = 0
    servfail: int = 0
    other: int = 0
    lost: int = 0
    cold_ms: list[float] = field(default_factory=list)
    """Latencies of the first question for a name since the window reached it, and of those that came with it."""
    warm_ms: list[float] = field(default_factory=list)
    gap_s: float = 0.0
    """The longest time without a right answer that ended in this second."""
    gap_at: float = 0.0
    """When that gap began."""


@dataclass(frozen=True)
class _Asked:
    name: int
    sent_at: float
    is_cold: bool


class MovingLoad:
    """Sends the questions, and checks what comes back."""

    def __init__(self, port: int, lines: list[str]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._questions: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, address = line.split()
            wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
            self._questions.append((struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + wire, socket.inet_aton(address)))
        self._random = random.Random(1)
        self._next_id = 0
        self._asked: dict[int, _Asked] = {}
        self._order: deque[tuple[int, _Asked]] = deque()
        self._answered: set[int] = set()
        """Names of the window that have been answered since it reached them."""
        self._heard_at = monotonic()
        self._first = self._window = 0

    def move_to(self, first: int, window: int) -> None:
        """Ask for the names from `first` on; those that were left behind are cold when the window comes round again."""
        count = len(self._questions)
        while self._first < first:
            self._answered.discard(self._first % count)
            self._first += 1
        self._window = min(window, count)

    def send(self, second: Second) -> None:
        """Ask for one name of the window."""
        name = (self._first + self._random.randrange(self._window)) % len(self._questions)
        id = self._next_id
        self._next_id = (id + 1) % 65536
        asked = _Asked(name, monotonic(), name not in self._answered)
        self._asked[id] = asked
        self._order.append((id, asked))
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):  # counted as lost when no answer comes
            self._socket.send(id.to_bytes(2, "big") + self._questions[name][0])
        second.sent += 1

    def receive(self, second: Second) -> None:
        """Read every answer that has come, and give up on what is too old."""
        while True:
            try:
                reply = self._socket.recv(4096)
            except (BlockingIOError, ConnectionRefusedError):
                break
            asked = self._asked.pop(int.from_bytes(reply[:2], "big"), None)
            if asked is not None:
                self._check(reply, asked, second)
        now = monotonic()
        while self._order and self._order[0][1].sent_at < now - LOST_AFTER_S:
            id, asked = self._order.popleft()
            if self._asked.get(id) is asked:
                del self._asked[id]
                second.lost += 1

    def _check(self, reply: bytes, asked: _Asked, second: Second) -> None:
        now = monotonic()
        second.answered += 1
        question, address = self._questions[asked.name]
        where = len(question) + 2 + 12  # the record's owner is a pointer to the question
        rcode = reply[3] & 15
        if rcode == NXDOMAIN:
            second.nxdomain += 1
        elif rcode == SERVFAIL:
            second.servfail += 1
        elif rcode:
            second.other += 1
        elif reply[where : where + 4] != address:
            second.wrong += 1
        else:
            self._answered.add(asked.name)
            (second.cold_ms if asked.is_cold else second.warm_ms).append(round(1000 * (now - asked.sent_at), 2))
            if now - self._heard_at > second.gap_s:
                second.gap_s, second.gap_at = now - self._heard_at, self._heard_at
            self._heard_at = now

    def wait(self) -> None:
        """Wait for an answer, or until it is time to send again."""
        select.select([self._socket], [], [], TURN_S)


def main() -> None:
    """Run until the reader goes away."""
    port, names, rate, window, new_per_s = sys.argv[1:6]
    load = MovingLoad(int(port), Path(names).read_text().splitlines())
    begun = monotonic()
    sent, second = 0, Second(begun)
    while True:
        now = monotonic()
        load.move_to(int((now - begun) * float(new_per_s)), int(window))
        while sent < (now - begun) * float(rate):
            load.send(second)
            sent += 1
        load.receive(second)
        if now >= second.at + 1:
            print(json.dumps(vars(second)), flush=True)
            second = Second(second.at + 1)
        load.wait()


if __name__ == "__main__":
    main()
