"""What the suite takes before anybody asks for a name: imports, memory, and how long commands take.

    python -m bench.footprint

A service's import is measured in a process of its own, in processor time. Memory is that of `jitsu up` with ten VMs on
the mock hypervisor, none of which runs, REST_S after it was ready: private memory counts for one process, and the share
in all (PSS) counts pages that several processes have in common once. The first row of each table is the floor: a bare
Python with asyncio and ZeroMQ.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

from bench.cpu import named
from bench.size import sized
from tests.support.suite import JITSU, RunningSuite, vm_toml

FLOOR = "asyncio, zmq"
PROGRAMS = [f"jitsu_{service}.main" for service in ("store", "vmd", "synjitsu", "reaper", "dns", "web")]
TRIES = sized(5, 1)
VMS = 10
REST_S = sized(5.0, 1.0)
IMPORT = """
import resource, sys
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
begun = spent()
import {}
print(1000 * (spent() - begun))
"""
BARE = "import asyncio, sys, zmq; zmq.Context(); print(flush=True); sys.stdin.read()"


def import_ms(modules: str) -> float:
    """Return the processor time that importing takes, in ms."""
    run = [sys.executable, "-c", IMPORT.format(modules)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def memory_mb(pid: int) -> tuple[float, float, float]:
    """Return the resident, private and proportional memory of a process, in MB (proc(5), smaps_rollup)."""
    kilobytes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, *_ = line.split()
        kilobytes[key] = int(value)
    private = kilobytes["Private_Clean:"] + kilobytes["Private_Dirty:"]
    return kilobytes["Rss:"] / 1024, private / 1024, kilobytes["Pss:"] / 1024


def bare_mb() -> tuple[float, float, float]:
    """Return the memory of a bare Python with asyncio and ZeroMQ."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return memory_mb(process.pid)


def command(suite: RunningSuite) -> tuple[float, float]:
    """Return how long `jitsu status` takes, and its processor time, in ms."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), monotonic()
    run = [*JITSU, "--runtime-dir", str(suite.directory / "run"), "status"]
    subprocess.run(run, check=True, capture_output=True)
    took, after = monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * took, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def print_imports() -> None:
    """Print the processor time of each import."""
    print(f"{'import (ms of processor time)':<34}{'median':>10}{'min':>10}{'max':>10}")
    for program in [FLOOR, *PROGRAMS, "jitsu.main"]:
        times = [import_ms(program) for _ in range(TRIES)]
        print(f"{program:<34}{statistics.median(times):>10.0f}{min(times):>10.0f}{max(times):>10.0f}", flush=True)


def print_memory(suite: RunningSuite) -> None:
    """Print the memory of each process."""
    print(f"{'memory (MB)':<34}{'resident':>10}{'private':>10}{'share':>10}")
    found = {name: memory_mb(pid) for pid, name in named([*suite.processes(), suite.process.pid]).items()}
    for name, sizes in [(FLOOR, bare_mb()), *sorted(found.items())]:
        print(f"{name:<34}" + "".join(f"{size:>10.1f}" for size in sizes))
    print(f"{'all of the suite':<34}" + "".join(f"{sum(each):>10.1f}" for each in zip(*found.values(), strict=True)))


def main() -> int:
    """Run the benchmark."""
    print_imports()
    toml = "".join(vm_toml(f"n{n}", f"127.3.0.{n + 1}") for n in range(VMS))
    ups, statuses = [], []
    for number in range(TRIES):
        with tempfile.TemporaryDirectory() as directory:
            begun = monotonic()
            with RunningSuite(Path(directory), toml=toml) as suite:
                ups.append(1000 * (monotonic() - begun))
                sleep(REST_S)
                statuses.append(command(suite))
                if number == 0:
                    print_memory(suite)
    times, spent = zip(*statuses, strict=True)
    print(f"{'commands (ms)':<34}{'median':>10}{'min':>10}{'max':>10}")
    rows = {"jitsu up, until it is ready": ups, "jitsu status": times, "jitsu status, processor time": spent}
    for name, values in rows.items():
        print(f"{name:<34}{statistics.median(values):>10.0f}{min(values):>10.0f}{max(values):>10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
