"""Warm queries a second, of one process on one core, beside the servers that others use.

    python -m bench.dns_warm [SECONDS]

Server and generator have a core each; all servers hold the same zone. Each figure is the median of ROUNDS, in which
the servers take turns. Jitsu counts every query for every name meanwhile, and tells the reaper.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dns_peers import PEERS, ZONE, running
from bench.size import sized
from tests.support.suite import RunningSuite, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_CORE, LOAD_CORE = 0, 1
ON_ITS_CORE = ["taskset", "-c", str(LOAD_CORE)]
WARM_UP_S = sized(1.0, 0.1)
SECONDS = sized(2.0, 0.3)
ROUNDS = sized(3, 1)
COUNTS = sized((1, 10_000), (1, 100))
VMS = sized(1000, 20)
"""As many VMs share the names: the mock hypervisor has a guest for each."""


def names_of(count: int) -> dict[str, str]:
    """Return name -> address, as many names for each VM as there must be."""
    vms = min(count, VMS)
    return {f"n{n}.{ZONE}": f"127.20.{n % vms // 250}.{n % vms % 250 + 1}" for n in range(count)}


def toml_of(names: Mapping[str, str]) -> str:
    """Return jitsu.toml with these names."""
    by_address: dict[str, list[str]] = {}
    for name, address in names.items():
        by_address.setdefault(address, []).append(name)
    lines = []
    for number, (address, held) in enumerate(by_address.items()):
        lines += [f"[vm.v{number}]", f"dns = {json.dumps(held)}", f'ip = "{address}"']
        lines += ["ttl = 60", "idle_timeout = 3600", "boot_time = 0", "response_delay = 0"]
    return "\n".join(lines) + "\n"


def load(
    port: int, names: Path, seconds: float, *, edns: bool = False, rate: float = 0, first: bool = False
) -> dict[str, Any]:
    """Run the generator; `first`, as root, before all else on its core, where others have work to do too (sched(7))."""
    argv = ["chrt", "-f", "1"] * (first and not os.geteuid()) + [
        sys.executable,
        "-m",
        "bench.dns_load",
        str(port),
        str(names),
        str(seconds),
    ]
    argv += ["--edns"] * edns + (["--rate", str(rate)] if rate else [])
    done = subprocess.run([*ON_ITS_CORE, *argv], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def dnsperf(port: int, names: Path, seconds: float) -> float:
    """Return what dnsperf reaches, NaN if it is not there."""
    if not shutil.which("dnsperf"):
        return float("nan")
    questions = names.with_suffix(".dnsperf")
    questions.write_text("".join(f"{line.split()[0]} A\n" for line in names.read_text().splitlines()))
    argv = [*ON_ITS_CORE, "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(questions)]
    argv += ["-l", str(max(1, int(seconds))), "-q", "500"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if "Queries per second" in line)
    return float(line.split()[-1])


def pin(suite: RunningSuite, *, nice: bool = True) -> int:
    """Give the dns process a core, and the others what the generator leaves of its own; returns its pid."""
    pid = suite.pid("dns")
    assert pid is not None
    for each in suite.processes():
        for task in Path(f"/proc/{each}/task").iterdir():
            os.sched_setaffinity(int(task.name), {SERVER_CORE if each == pid else LOAD_CORE})
        if each != pid and nice:
            os.setpriority(os.PRIO_PROCESS, each, 19)
            with contextlib.suppress(OSError):  # sched(7): each session is a group, and has a nice value of its own
                Path(f"/proc/{each}/autogroup").write_text("19")
    return pid


def resident_mb(pid: int) -> float:
    """Return a process's memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def summon_all(port: int, names: Path) -> None:
    """Ask for every name until each is answered."""

    def asked() -> bool:
        found = load(port, names, 2.0, rate=4000)
        return not found["wrong"] and not found["lost"]

    wait_for(asked, 120, "every name is warm")


def measure(label: str, port: int, names: Path, seconds: float, rows: dict[str, dict[str, list[float]]]) -> None:
    """Add a round of one server's figures."""
    row = rows.setdefault(label, {})
    for kind, edns in (("plain", False), ("EDNS", True)):
        load(port, names, WARM_UP_S, edns=edns)
        found = load(port, names, seconds, edns=edns)
        row.setdefault(kind, []).append(found["per_s"])
        row.setdefault("bad", []).append(found["wrong"] + found["lost"])
    row.setdefault("dnsperf", []).append(dnsperf(port, names, seconds))
    half = load(port, names, seconds, rate=row["plain"][-1] / 2)
    row.setdefault("p99", []).append(half["p99_ms"])
    row["bad"].append(half["wrong"] + half["lost"])


def compare(count: int, seconds: float, directory: Path) -> None:
    """Print the table for a number of names."""
    names = names_of(count)
    file = directory / f"names{count}"
    file.write_text("".join(f"{name} {address}\n" for name, address in names.items()))
    rows: dict[str, dict[str, list[float]]] = {}
    place = directory / f"jitsu{count}"
    place.mkdir()
    with RunningSuite(place, toml=toml_of(names)) as suite:
        summon_all(suite.port, file)
        pid = pin(suite)
        for number in range(ROUNDS):
            measure("Jitsu", suite.port, file, seconds, rows)
            for peer in PEERS:
                port = free_port()
                with running(peer, names, directory / f"{peer}{count}.{number}", port, SERVER_CORE) as answers:
                    if answers:
                        measure(peer, port, file, seconds, rows)
        memory = resident_mb(pid)
    ours = {kind: statistics.median(values) for kind, values in rows["Jitsu"].items()}
    print(
        f"\n{count} name{'s' if count > 1 else ''}: thousand queries a second (Jitsu's in relation), p99 at half load"
    )
    print(f"{'':<10}{'plain':>16}{'EDNS':>16}{'dnsperf':>10}{'p99':>10}{'bad':>6}")
    for label, row in rows.items():
        cells = "".join(
            f"{statistics.median(row[kind]) / 1000:>8.0f} ({ours[kind] / statistics.median(row[kind]):.2f})"
            for kind in ("plain", "EDNS")
        )
        rest = f"{statistics.median(row['dnsperf']) / 1000:>10.0f}{statistics.median(row['p99']):>7.2f} ms"
        print(f"{label:<10}{cells}{rest}{sum(row['bad']):>6.0f}")
    print(f"Jitsu's dns process: {memory:.0f} MB")


def main() -> int:
    """Run the benchmark."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as directory:
        for count in COUNTS:
            compare(count, seconds, Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
