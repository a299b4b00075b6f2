"""Warm queries over UDP while one TCP connection sends 2 MB of queries a second.

    python -m bench.dns_flood

The flood comes from a process of its own, which reads its answers. Printed for each kind of flood: how long the warm
queries took, and how many were not answered within 2 s.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from pathlib import Path
from time import monotonic, sleep

import dns.message

from bench.size import sized
from tests.support.suite import RunningSuite, vm_toml

FLOOD_BYTES_A_SECOND = 2_000_000
EACH_S = sized(10.0, 1.0)
PAUSE_S = 0.005
"""Between two warm queries."""
TIMEOUT_S = 2.0
PIECE_BYTES = 20_000
ADDRESS = "127.29.3.1"


def queries(kind: str) -> bytes:
    """Return about PIECE_BYTES of messages as they stand on a TCP connection."""
    found = b""
    while len(found) < PIECE_BYTES:
        message = dns.message.make_query(f"n{len(found)}.jitsu.test", "A").to_wire()
        if kind == "malformed":
            message = message[:-3]
        found += len(message).to_bytes(2, "big") + message
    return found


def flood(port: int, kind: str) -> None:
    """Send for ever, as fast as is allowed and the server takes it."""
    data = queries(kind)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        begun, sent = monotonic(), 0
        waiting = b""
        while True:
            try:
                while connection.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
            if not waiting and sent < FLOOD_BYTES_A_SECOND * (monotonic() - begun):
                waiting = data
            try:
                done = connection.send(waiting) if waiting else 0
            except BlockingIOError:
                done = 0
            sent += done
            waiting = waiting[done:]
            if not done:
                sleep(0.001)


def ask(port: int, seconds: float) -> tuple[list[float], int]:
    """Return how many milliseconds each warm query took, and how many had no answer."""
    wire = bytearray(dns.message.make_query("www.jitsu.test", "A").to_wire())
    took: list[float] = []
    lost = id = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(TIMEOUT_S)
        end = monotonic() + seconds
        while monotonic() < end:
            id = (id + 1) % 65536
            wire[:2] = id.to_bytes(2, "big")
            begun = monotonic()
            client.send(wire)
            try:
                while client.recv(512)[:2] != wire[:2]:
                    pass  # the late answer to an earlier query
                took.append(1000 * (monotonic() - begun))
            except TimeoutError:
                lost += 1
            sleep(PAUSE_S)
    return sorted(took), lost


def measured(port: int, kind: str) -> str:
    """Return a line about the warm queries under one kind of flood."""
    context = multiprocessing.get_context("spawn")
    flooding = context.Process(target=flood, args=(port, kind), daemon=True) if kind != "none" else None
    if flooding is not None:
        flooding.start()
        sleep(1.0)
    try:
        took, lost = ask(port, EACH_S)
    finally:
        if flooding is not None:
            flooding.terminate()
            flooding.join()
    if not took:
        return f"flood {kind}: no warm query was answered; {lost} were asked"
    median, p99 = took[len(took) // 2], took[99 * len(took) // 100]
    return f"flood {kind}: warm queries took {median:.2f} ms, p99 {p99:.1f}, at most {took[-1]:.1f}; {lost} lost"


def main() -> None:
    """Print a line for each kind of flood."""
    toml = vm_toml("www", ADDRESS, ttl=60, boot_time=0, response_delay=0)
    with tempfile.TemporaryDirectory() as directory, RunningSuite(Path(directory), toml=toml) as suite:
        ask(suite.port, 0.2)
        for kind in ("none", "nxdomain", "malformed"):
            print(measured(suite.port, kind), flush=True)


if __name__ == "__main__":
    main()
