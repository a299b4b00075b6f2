"""Cold starts on the mock hypervisor with a boot time and a delay of 0: what Jitsu itself costs.

Prints, over 200 VMs asked for one after the other, the time from sending the query to the hypervisor's start call
and to the reply: median and 99th percentile, in ms and in idle round trips over ZeroMQ that are measured in the same
run (round_trip.py), and the processor time of each process. Client, suite and guests share the machine.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

import dns.message

from bench.cpu import Meter
from bench.round_trip import print_rows
from bench.size import sized
from tests.support.suite import RunningSuite, vm_toml

VMS = sized(200, 5)
PAUSE_S = 0.01
"""Between two queries: this is the cost of one, not of a burst."""


def toml() -> str:
    """Return the configuration."""
    return "".join(
        vm_toml(f"n{n}", f"127.3.{n // 200}.{n % 200 + 1}", boot_time=0, response_delay=0, ttl=600) for n in range(VMS)
    )


def ask_each(port: int) -> dict[str, tuple[float, float]]:
    """Ask for each name once; returns VM -> when the query was sent, when its answer came."""
    times = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(5)
        for n in range(VMS):
            query = dns.message.make_query(f"n{n}.jitsu.test", "A").to_wire()
            sent = monotonic()
            client.send(query)
            reply = client.recv(4096)
            times[f"n{n}"] = (sent, monotonic())
            assert dns.message.from_wire(reply).answer, f"n{n} was not answered"
            sleep(PAUSE_S)
    return times


def row(name: str, values: list[float], floor_ms: float) -> str:
    """Return a line of the table, in milliseconds and in round trips."""
    median, p99 = 1000 * statistics.median(values), 1000 * statistics.quantiles(values, n=100, method="inclusive")[98]
    shown = f"{name:<34}{median:>10.2f}{p99:>10.2f}{1000 * max(values):>10.2f}"
    return f"{shown}{median / floor_ms:>12.1f} x{p99 / floor_ms:>9.1f} x"


def main() -> int:
    """Run the benchmark."""
    floor_ms = print_rows()
    with tempfile.TemporaryDirectory() as directory, RunningSuite(Path(directory), toml=toml()) as suite:
        meter = Meter(suite.processes())
        with meter.running():
            times = ask_each(suite.port)
        meter.print_per("cold query", VMS)
        traced = json.loads(suite.jitsu("trace", "--json", "-n", "1000"))
    # CLOCK_MONOTONIC is one clock for all processes of a host (clock_gettime(2)).
    called = {each["name"]: dict(each["stages"])["start call"] for each in traced}
    title = f"{VMS} cold starts (ms)"
    print(f"{title:<34}{'median':>10}{'p99':>10}{'max':>10}{'median':>14}{'p99':>11}")
    print(row("query to the start call", [called[vm] - sent for vm, (sent, _) in times.items()], floor_ms))
    print(row("query to the reply", [came - sent for sent, came in times.values()], floor_ms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
