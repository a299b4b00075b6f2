"""Time from a start to the first byte at a client, for each kind of engine: by its own call, and by a query of Jitsu.

    python -m bench.engines [KIND]...

As root. Each kind has three machines that are alike, on a bridge in a network namespace; a client is in another one. In
each round the first machine is started by the engine's own call; the second one by a query, and vmd waits for its port;
the third one by a query, and Synjitsu answers for it. Kinds of which something is not installed are left out. The plot
is written to PLOT, build/bench-engines.svg if that is not set.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from bench.bars import Bars, drawn
from bench.size import sized
from jitsu.link import connect
from jitsu_protocol.messages import Done, OperatorStop
from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.settings.schema import BusSettings
from tests.support.lan import lan_suite, made_lan
from tests.support.suite import wait_for
from tests.system.test_first_packets import summon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu.link import Link
    from tests.support.engine_bench import BenchMachine, EngineBench
    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

ENGINES = {
    "command": ("tests.support.engine_bench", "command_bench"),
    "solo5": ("tests.support.engine_bench", "solo5_bench"),
    "docker": ("tests.support.docker", "bench_engine"),
    "podman": ("tests.support.podman", "bench_engine"),
    "lxd": ("tests.support.lxd", "bench_engine"),
    "qemu": ("tests.support.qemu", "bench_engine"),
    "proxmox": ("tests.support.proxmox_qemu", "bench_engine"),
}
"""Kind -> the module that has its machines, and the function there (tests/support/engine_bench.py)."""
ROUNDS = sized(20, 2)
LIMIT_S = 60.0
POLL_S, TRY_S = 0.001, 0.005
RESTS_S = 0.15
"""Between two measurements: until all processes are idle again, and dns knows that the VM is off."""
WAYS = {
    "m1": "wait_for_port = 80\nresponse_delay = 0",
    "m2": "use_synjitsu = true",
}
"""Machine -> how its boot is hidden."""
RELATIVE, MORE_MS = 1.05, 15.0
"""A query is to take at most that much times the engine's own call, and that much more."""
PLOT = Path(os.environ.get("PLOT", "build/bench-engines.svg"))


@dataclass
class Row:
    """The times of one kind, in ms."""

    kind: str
    own: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    masked: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return the row of the table: median and 99th percentile of each, and whether the aim is reached."""
        medians = [statistics.median(each) for each in (self.own, self.plain, self.masked)]
        shown = "".join(
            f"{median:>10.1f}{percentile(times):>9.1f}"
            for median, times in zip(medians, (self.own, self.plain, self.masked), strict=True)
        )
        aim = RELATIVE * medians[0] + MORE_MS
        best = min(medians[1:])
        return f"{self.kind:<10}{shown}{aim:>10.1f}  {'reached' if best <= aim else f'missed by {best - aim:.1f}'}"


def percentile(times: list[float]) -> float:
    """Return the 99th percentile; of fewer than a hundred that is the longest."""
    ordered = sorted(times)
    return ordered[len(ordered) * 99 // 100]


def until_first_byte(address: str, patience: float = LIMIT_S) -> float:
    """Ask for a page until its first byte comes; a connection that is not there after `patience` seconds is given up.

    A SYN that is lost is sent again after a second. What is measured of the engine's own call should not be that.
    """
    until = monotonic() + LIMIT_S
    while True:
        try:
            with socket.create_connection((address, 80), patience) as client:
                client.settimeout(LIMIT_S)
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if client.recv(4096):
                    return monotonic()
        except OSError:
            if monotonic() > until:
                raise
        sleep(POLL_S)


def by_its_own_call(lan: Lan, machine: BenchMachine) -> float:
    """Return how long the engine's own start and the page that follows take, in ms."""
    begun = monotonic()
    lan.run_on_host(machine.start)
    came_at: float = lan.run(0, lambda: until_first_byte(machine.address, TRY_S))
    machine.stop()
    return 1000 * (came_at - begun)


def by_query(lan: Lan, suite: RunningSuite, link: Operator, machine: BenchMachine) -> float:
    """Return how long a query and the page that follows take, in ms."""

    def fetch() -> float:
        begun = monotonic()
        address = summon(machine.name, suite.port)
        return 1000 * (until_first_byte(address) - begun)

    took: float = lan.run(0, fetch)
    link.stop(machine.name)
    return took


class Operator:
    """A link to vmd that stays open: the command line takes longer to start than some machines do."""

    def __init__(self, suite: RunningSuite, runner: asyncio.Runner, link: Link) -> None:
        self._runner = runner
        self._link = link
        self._uuids = {name: str(each["uuid"]) for name, each in suite.status().items()}

    def stop(self, name: str) -> None:
        """Stop a VM; its page may come before vmd knows that it is up, and what starts is not stopped."""
        until = monotonic() + LIMIT_S
        while True:
            try:
                self._runner.run(self._link.call("vmd", OperatorStop(vm=self._uuids[name]), Done, LIMIT_S))
            except Unavailable:
                if monotonic() > until:
                    raise
                sleep(0.005)
            else:
                return


@contextmanager
def operator_of(suite: RunningSuite) -> Iterator[Operator]:
    """Connect to a suite."""
    with asyncio.Runner() as runner:
        connected = connect(BusSettings(runtime_dir=str(suite.directory / "run")))
        try:
            yield Operator(suite, runner, runner.run(connected.__aenter__()))
        finally:
            runner.run(connected.__aexit__(None, None, None))


def measured(kind: str, lan: Lan, engine: EngineBench, directory: Path) -> Row:
    """Measure one kind."""
    vms = "".join(
        f'[vm.{machine.name}]\ndns = "{machine.name}.jitsu.test"\nip = "{machine.address}"\nttl = 1\n'
        f"idle_timeout = 3600\nboot_limit = {LIMIT_S:g}\nmax_wait = 4\n{machine.keys}\n{WAYS[machine.name]}\n"
        for machine in engine.machines
        if machine.name in WAYS
    )
    own, plain, masked = engine.machines
    row = Row(kind)
    with lan_suite(directory, engine.toml + vms, lan=lan) as (_, suite), operator_of(suite) as link:
        wait_for(lambda: {suite.state(name) for name in WAYS} == {"off"}, LIMIT_S, "the machines are off")
        for number in range(-1, ROUNDS):
            took = [by_its_own_call(lan, own)]
            for machine in (plain, masked):
                sleep(RESTS_S)
                took.append(by_query(lan, suite, link, machine))
            sleep(RESTS_S)
            if number >= 0:  # the first round fills caches
                for times, each in zip((row.own, row.plain, row.masked), took, strict=True):
                    times.append(each)
    return row


def engine_of(kind: str, lan: Lan, directory: Path) -> Iterator[EngineBench]:
    """Yield the machines of a kind; raises ImportError or LookupError if there is nothing to measure."""
    module, function = ENGINES[kind]
    made = vars(importlib.import_module(module))[function]
    with made(lan, directory) as engine:
        yield engine


def ask_often(lan: Lan) -> None:
    """Let the client repeat what it asks by ARP every 50 ms: a second would say more about Linux than about engines."""
    for namespace in (lan.host, *lan.clients):
        path = "/proc/sys/net/ipv4/neigh/default/retrans_time_ms"
        inside = f"for f in {path} $(ls -d /proc/sys/net/ipv4/neigh/*/retrans_time_ms); do echo 50 > $f; done"
        subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", inside], check=True, capture_output=True)


def plot(rows: list[Row]) -> str:
    """Return the medians as a picture."""
    names = ("its own call", "a query, port waited for", "a query, Synjitsu")
    bars = {row.kind: [statistics.median(times) for times in (row.own, row.plain, row.masked)] for row in rows}
    return drawn(Bars("From the start to the first byte at the client, median", "ms", names, bars))


def main() -> int:
    """Run the benchmark."""
    kinds = sys.argv[1:] or list(ENGINES)
    if unknown := [kind for kind in kinds if kind not in ENGINES]:
        print(f"there is no kind {', '.join(unknown)}; kinds are: {' '.join(ENGINES)}")
        return 2
    rows, left_out = [], []
    print(f"from the start to the first byte, {ROUNDS} rounds, in ms: median and 99th percentile")
    print(f"{'':<10}{'its own call':>19}{'query, port':>19}{'query, Synjitsu':>19}{'aim':>10}", flush=True)
    for kind in kinds:
        with made_lan(1) as lan, tempfile.TemporaryDirectory() as scratch:
            ask_often(lan)
            directories = [Path(scratch, name) for name in ("engine", "suite")]
            for each in directories:
                each.mkdir()
            try:
                with contextmanager(engine_of)(kind, lan, directories[0]) as engine:
                    rows.append(measured(kind, lan, engine, directories[1]))
            except (ModuleNotFoundError, KeyError) as missing:
                left_out.append(f"{kind} ({missing})")
            else:
                print(rows[-1].line(), flush=True)
    if left_out:
        print("left out:", ", ".join(left_out))
    if rows:
        with suppress(OSError):
            PLOT.parent.mkdir(parents=True, exist_ok=True)
            PLOT.write_text(plot(rows))
            print(f"plot: {PLOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
