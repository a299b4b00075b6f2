"""From a client's connect to its first byte, for guests of several boot times, with Synjitsu and without.

    python -m bench.synjitsu [ROUNDS]

As root: a bridge, a client and the guests are network namespaces. The time counts from the guest's start, so what it is
compared with is the boot itself.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import dns.message
import dns.query

from bench.size import sized
from tests.support.lan import guest_toml, lan_suite
from tests.system.test_first_packets import ECHO, http, summon
from tests.system.test_traffic import flood

if TYPE_CHECKING:
    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

BOOT_TIMES_S = sized((0.02, 0.1, 0.3, 1.0, 3.0), (0.0, 0.0, 0.0, 0.0, 0.5))
ROUNDS = sized(50, 1)
LOAD_S = sized(5.0, 0.5)
MS_PER_CHARACTER = 80


def fetch(address: str, port: int, name: str) -> float:
    """Ask for a name that is off, and fetch its page; return how long that took, in ms, from the query's answer."""
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    assert dns.query.udp(query, "10.77.0.1", port=port, timeout=5).answer
    begun = monotonic()
    try:
        assert "This is the VM" in http(address)
    except OSError:  # without Synjitsu the kernel gives an address up that nobody answers for
        return float("inf")
    return 1000 * (monotonic() - begun)


def measure(lan: Lan, suite: RunningSuite, name: str, address: str, rounds: int) -> list[float]:
    """Return the times of one guest."""
    times = []
    for _ in range(rounds):
        times.append(lan.run(0, lambda: fetch(address, suite.port, name)))
        suite.jitsu("stop", name)
        sleep(0.05)
    return times


def cpu_s(pid: int) -> float:
    """Return how long a process has run on a processor, in seconds (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stream(address: str) -> int:
    """Send to the guest's echo for a while and take what comes back; returns the bytes of both ways."""
    moved, ends = 0, monotonic() + LOAD_S
    with socket.create_connection((address, ECHO), timeout=10) as connection:
        connection.setblocking(False)
        block = b"x" * 2**18
        while monotonic() < ends:
            able = select.select([connection], [connection], [], 1)
            if able[0]:
                moved += len(connection.recv(2**20))
            if able[1]:
                moved += connection.send(block)
    return moved


def report_load(lan: Lan, suite: RunningSuite) -> None:
    """Print what Synjitsu costs while a guest that runs is busy, and while one that boots is flooded."""
    pid = suite.pid("synjitsu")
    assert pid
    lan.run(0, lambda: summon("with0", suite.port))
    sleep(1)
    begun = cpu_s(pid)
    moved = lan.run(0, lambda: stream("10.77.0.10"))
    share = 100 * (cpu_s(pid) - begun) / LOAD_S
    print(f"a guest that runs, {8 * moved / LOAD_S / 1e9:.1f} Gbit/s: {share:.1f} % of a core")
    lan.run(0, lambda: summon("with4", suite.port))
    begun = cpu_s(pid)
    sent = lan.run(0, lambda: flood(b"\x0a\x4d\0\x0e", b"\x02\0\x5e\0\x53\x14", 2.0))
    share = 100 * (cpu_s(pid) - begun) / 2
    print(f"a guest that boots, {sent / 2:.0f} SYNs a second: {share:.1f} % of a core")


def main() -> int:
    """Run the benchmark."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    toml = ""
    for n, boot in enumerate(BOOT_TIMES_S):
        toml += guest_toml(f"with{n}", 10 + n, boot_time=boot, tap="false", max_wait=4, mac=f"02:00:5e:00:53:{10 + n}")
        toml += guest_toml(f"without{n}", 30 + n, boot_time=boot, use_synjitsu="false", tap="false", response_delay=0)
    print("from the answer of the name server to the first byte of the page, ms above the boot time (median, p99)")
    with tempfile.TemporaryDirectory() as directory, lan_suite(Path(directory), toml) as (lan, suite):
        for n, boot in enumerate(BOOT_TIMES_S):
            count = rounds if boot < 1 else max(5, rounds // 5)
            for name, address in (("with", f"10.77.0.{10 + n}"), ("without", f"10.77.0.{30 + n}")):
                times = sorted(measure(lan, suite, f"{name}{n}", address, count))
                median, worst = statistics.median(times), times[len(times) * 99 // 100]
                above = f"{median - 1000 * boot:>9.1f}{worst - 1000 * boot:>9.1f}"
                bar = "no route to host" if median == float("inf") else "━" * round(median / MS_PER_CHARACTER)
                print(f"{boot:>5.2f} s {name:<8}{above}   {bar} {median:.0f} ms", flush=True)
        report_load(lan, suite)
    return 0


if __name__ == "__main__":
    sys.exit(main())
