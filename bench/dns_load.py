"""A load of DNS queries in batches, each answer checked: what dnsperf is too slow for.

    python -m bench.dns_load PORT NAMES SECONDS [--edns] [--rate N]

NAMES is a file with a line `name address` for each question. Prints JSON: answers a second, how many were wrong or
lost, the answers in each 0.1 s, and with --rate the latency's 50th and 99th percentile in milliseconds. One process,
one socket.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import struct
from pathlib import Path
from time import monotonic, sleep

from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, DatagramSocket

MAX_IN_FLIGHT = 256
LOST_AFTER_S = 0.5
WINDOW_S = 0.1
TURN_S = 0.0005
OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


class Load:
    """Sends questions in a random order, and checks what comes back."""

    def __init__(self, port: int, lines: list[str], *, edns: bool) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._datagrams = DatagramSocket(self._socket, connected=True)
        self._questions: list[tuple[bytes, int, bytes]] = []
        for line in lines:
            name, address = line.split()
            wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
            head = struct.pack("!HHHHH", 0x0100, 1, 0, 0, 1 if edns else 0)
            where = 12 + len(wire) + 12  # the record's owner is a pointer to the question
            self._questions.append((head + wire + (OPT if edns else b""), where, socket.inet_aton(address)))
        random.Random(1).shuffle(self._questions)
        self._next = 0
        self._sent_at = [0.0] * 65536
        self._asked: list[tuple[bytes, int, bytes] | None] = [None] * 65536
        self.in_flight = self.sent = self.answered = self.wrong = self.lost = 0
        self.latencies: list[float] = []
        self.windows: list[int] = []
        """Answers in each WINDOW_S."""
        self._window_ends, self._answered_before = 0.0, 0

    def send(self, count: int) -> None:
        """Send that many questions, at most a batch."""
        packets: list[bytes | None] = []
        now = monotonic()
        for _ in range(count):
            question = self._questions[self._next % len(self._questions)]
            id = self._next % 65536
            self._next += 1
            self._asked[id] = question
            self._sent_at[id] = now
            packets.append(id.to_bytes(2, "big") + question[0])
        self._datagrams.answer(packets)
        self.in_flight += count
        self.sent += count

    def note_window(self, now: float) -> None:
        """Count by windows."""
        if not self._window_ends:
            self._window_ends = now + WINDOW_S
        elif now >= self._window_ends:
            self.windows.append(self.answered - self._answered_before)
            self._window_ends, self._answered_before = self._window_ends + WINDOW_S, self.answered

    def wait(self) -> None:
        """Wait for an answer, or until it is time to send again."""
        select.select([self._socket], [], [], TURN_S)

    def receive(self, *, timed: bool = False) -> int:
        """Take what has come; returns how many that were."""
        replies = self._datagrams.receive()
        now = monotonic() if timed else 0.0
        asked = self._asked
        for reply in replies:
            id = reply[0] << 8 | reply[1]
            question = asked[id]
            if question is None:
                self.wrong += 1
                continue
            where = question[1]
            if reply[where : where + 4] != question[2] or reply[3] & 15:
                self.wrong += 1
            asked[id] = None
            if timed:
                self.latencies.append(now - self._sent_at[id])
        self.answered += len(replies)
        self.in_flight -= len(replies)
        return len(replies)


def flood(load: Load, seconds: float) -> dict[str, object]:
    """Ask as fast as answers come."""
    begun = heard = monotonic()
    while (now := monotonic()) < begun + seconds:
        load.note_window(now)
        while load.in_flight <= MAX_IN_FLIGHT - BATCH_DATAGRAMS:
            load.send(BATCH_DATAGRAMS)
        if load.receive():
            heard = now
        elif now > heard + LOST_AFTER_S:
            load.lost += load.in_flight
            load.in_flight, heard = 0, now
    took = monotonic() - begun
    return {"per_s": load.answered / took, "wrong": load.wrong, "lost": load.lost, "windows": load.windows}


def steady(load: Load, seconds: float, rate: float) -> dict[str, object]:
    """Ask at a rate, and time each answer."""
    begun = monotonic()
    while (now := monotonic()) < begun + seconds:
        load.note_window(now)
        due = int((now - begun) * rate) - load.sent
        if due > 0:
            load.send(min(due, BATCH_DATAGRAMS))
        if not load.receive(timed=True) and due <= 0:
            load.wait()  # the server's other processes may have this core meanwhile
    sleep(0.2)
    while load.receive(timed=True):
        pass
    times = sorted(load.latencies) or [0.0]
    return {
        "per_s": load.answered / seconds,
        "wrong": load.wrong,
        "lost": load.in_flight,
        "windows": load.windows,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[len(times) * 99 // 100],
    }


def main() -> None:
    """Run one load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("names", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--edns", action="store_true")
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    load = Load(given.port, given.names.read_text().splitlines(), edns=given.edns)
    found = steady(load, given.seconds, given.rate) if given.rate else flood(load, given.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
