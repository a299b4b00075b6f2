"""Ten thousand VMs on the mock hypervisor under a load that moves over them, while each service is killed once.

    python -m bench.scale [MINUTES]

A row for each minute: how many VMs run, starts and stops, the latencies of cold and warm queries, the memory and the
open files of all processes, the size of the history, and the longest time without a right answer. Then what an
operator feels: how long `jitsu up` takes until the first right answer, `jitsu status`, one `jitsu set` until DNS shows
it, and how long each service is away when it is killed. Load, suite and guests share the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode

from bench.dns_warm import resident_mb
from bench.scale_load import Second
from bench.size import sized
from bench.store import size_mb
from tests.support.suite import RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from collections.abc import Callable

VMS = sized(10_000, 60)
RATE = sized(2_800, 200)
"""Queries a second."""
WINDOW = sized(400, 20)
NEW_PER_S = sized(24, 4)
TTL_S = sized(5, 1)
IDLE_S = sized(10, 2)
MINUTE_S = sized(60.0, 3.0)
MINUTES = sized(10, 7)
KILLED = ("reaper", "synjitsu", "dns", "vmd", "store")
"""One of them in each minute from the second on, in the middle of it."""
AFTER_KILL_S = sized(15.0, 1.5)
"""A gap that begins within that time after a kill belongs to the kill."""
FIRST_NAME = "n0.jitsu.test"
METRICS = ("store", "vmd", "dns", "reaper", "synjitsu")


def configuration(ports: dict[str, int]) -> str:
    """Return jitsu.toml."""
    sections = [f'[{service}]\nmetrics = "127.0.0.1:{port}"\n' for service, port in ports.items()]
    sections = [text.replace("[vmd]", "[hypervisor]") for text in sections]
    keys = {"ttl": TTL_S, "idle_timeout": IDLE_S, "boot_time": 0.05, "response_delay": 0}
    vms = [vm_toml(f"n{number}", address_of(number), **keys) for number in range(VMS)]
    return "\n".join([*sections, *vms])


def address_of(number: int) -> str:
    """Return the address of a VM."""
    return f"127.{30 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


class Scrape:
    """What the services' metrics say."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports

    def sum(self, service: str, *names: str) -> float:
        """Return the sum of some metrics over all their labels; NaN while the service does not answer."""
        try:
            url = f"http://127.0.0.1:{self._ports[service]}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return float("nan")
        wanted = {f"jitsu_{service}_{name}" for name in names}
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] in wanted)


class Watcher:
    """Asks for one name from before the suite is started, so that no wrong first answer is missed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.nxdomain = 0
        self.first_right_at: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self.first_right_at is None:
            try:
                query = dns.message.make_query(FIRST_NAME, "A")
                reply = dns.query.udp(query, "127.0.0.1", port=self._port, timeout=1)
            except (OSError, dns.exception.DNSException):
                sleep(0.02)
                continue
            self.nxdomain += reply.rcode() == dns.rcode.NXDOMAIN
            if reply.answer:
                self.first_right_at = monotonic()
            sleep(0.02)


class Seconds:
    """The lines that the load prints, read on a thread."""

    def __init__(self, port: int, names: Path) -> None:
        argv = [sys.executable, "-m", "bench.scale_load", str(port), str(names), str(RATE), str(WINDOW), str(NEW_PER_S)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.all: list[Second] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.all.append(Second(**json.loads(line)))

    def stop(self) -> None:
        """Stop the load."""
        self._process.terminate()
        self._process.wait(10)


def quantiles(values: list[float]) -> str:
    """Return median, 99th percentile and maximum, in milliseconds."""
    if len(values) < 2:
        return f"{'-':>24}"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"{statistics.median(values):>8.1f}{cuts[98]:>8.1f}{max(values):>8.0f}"


def answers(port: int, number: int) -> bool:
    """Say whether a name of a VM that may be off is answered rightly within 0.2 s."""
    query = dns.message.make_query(f"n{number}.jitsu.test", "A")
    try:
        reply = dns.query.udp(query, "127.0.0.1", port=port, timeout=0.2)
    except (OSError, dns.exception.DNSException):
        return False
    return any(address_of(number) in record.to_text() for record in reply.answer)


class Run:
    """The ten minutes."""

    def __init__(self, suite: RunningSuite, scrape: Scrape, load: Seconds) -> None:
        self._suite, self._scrape, self._load = suite, scrape, load
        self.kills: list[float] = []
        self.away: dict[str, float] = {}
        self._cold = VMS - 1
        """Names from the end are asked for to see whether a service is back: the load does not reach them."""

    def minute(self, number: int) -> None:
        """Let one minute pass, kill what is to be killed in it, and print its row."""
        begun, first = monotonic(), len(self._load.all)
        before = self._counts()
        if 1 <= number <= len(KILLED):
            sleep(MINUTE_S / 3)
            self._kill(KILLED[number - 1])
        sleep(max(0.0, begun + MINUTE_S - monotonic()))
        seconds = self._load.all[first:]
        cold = [each for second in seconds for each in second.cold_ms]
        warm = [each for second in seconds for each in second.warm_ms]
        pids = self._suite.processes()
        running = self._scrape.sum("vmd", "vms_ready", "vms_booting", "vms_draining")
        # A vmd that was killed counts from nothing.
        starts, stops = (now - was if now >= was else now for was, now in zip(before, self._counts(), strict=True))
        print(
            f"{number + 1:>3}{running:>7.0f}{starts:>7.0f}{stops:>7.0f}"
            f"{quantiles(cold)}{quantiles(warm)}"
            f"{sum(resident_mb(pid) for pid in pids if alive(pid)):>8.0f}{sum(map(open_files, pids)):>7}"
            f"{size_mb(self._suite.directory / 'run' / 'store.git' / 'objects'):>7.1f}"
            f"{self._gap(seconds):>8.3f}  {KILLED[number - 1] + ' killed' if 1 <= number <= len(KILLED) else ''}",
            flush=True,
        )

    def _counts(self) -> tuple[float, float]:
        """Return how many VMs were started and stopped since vmd started."""
        return self._scrape.sum("vmd", "summons_total"), self._scrape.sum("vmd", "stops_total")

    def _gap(self, seconds: list[Second]) -> float:
        """Return the longest time without an answer outside the kills."""
        return max((each.gap_s for each in seconds if not self._is_of_a_kill(each.gap_at)), default=0.0)

    def _is_of_a_kill(self, at: float) -> bool:
        return any(kill - 1 <= at <= kill + AFTER_KILL_S for kill in self.kills)

    def _kill(self, service: str) -> None:
        self._suite.kill(service)
        killed_at = monotonic()
        self.kills.append(killed_at)
        back = self._is_back(service)
        while not back() and monotonic() < killed_at + 60:
            sleep(0.01)
        self.away[service] = monotonic() - killed_at

    def _is_back(self, service: str) -> Callable[[], bool]:
        if service in ("dns", "vmd"):

            def cold_name_is_answered() -> bool:
                self._cold -= 1
                return answers(self._suite.port, self._cold)

            return cold_name_is_answered
        # A service that nobody asks for names is back when its metrics are: it serves them when it is ready.
        sleep(0.05)
        return lambda: self._scrape.sum(service, "dropped_messages_total") == 0


def alive(pid: int) -> bool:
    """Say whether a process is there."""
    return Path(f"/proc/{pid}/status").exists()


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def timed(suite: RunningSuite, *arguments: str) -> float:
    """Return how many seconds a command takes."""
    begun = monotonic()
    suite.jitsu(*arguments)
    return monotonic() - begun


def set_until_shown(suite: RunningSuite) -> float:
    """Set another address, and return how long DNS needs after `jitsu set` has returned."""
    vm = json.loads(suite.jitsu("status", "--json"))["vms"][0]
    suite.jitsu("set", f"jitsu/vm/{vm['uuid']}/ip", "127.29.1.1")
    begun = monotonic()
    while monotonic() < begun + 20:
        reply = dns.query.udp(dns.message.make_query(vm["names"][0], "A"), "127.0.0.1", port=suite.port, timeout=5)
        if "127.29.1.1" in reply.to_text():
            break
    return monotonic() - begun


def main() -> int:
    """Run the benchmark."""
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    ports = {service: free_port() for service in METRICS}
    with tempfile.TemporaryDirectory() as directory:
        names = Path(directory) / "names"
        held = VMS * 9 // 10
        names.write_text("".join(f"n{number}.jitsu.test {address_of(number)}\n" for number in range(held)))
        suite = RunningSuite(Path(directory), toml=configuration(ports))
        begun = monotonic()
        watcher = Watcher(suite.port)
        with suite:
            load = Seconds(suite.port, names)
            try:
                run = Run(suite, Scrape(ports), load)
                print(f"{VMS:,} VMs, {RATE:,} queries a second over {WINDOW} names, {NEW_PER_S} new names a second")
                print("min running starts  stops  cold p50, p99, max ms   warm p50, p99, max ms      MB  files     MB")
                print(f"{'':>71}  memory        history  longest gap s")
                for number in range(minutes):
                    run.minute(number)
                status_s, set_s = timed(suite, "status"), set_until_shown(suite)
            finally:
                load.stop()
        kinds = ("sent", "answered", "wrong", "nxdomain", "servfail", "other", "lost")
        counts = {kind: sum(getattr(second, kind) for second in load.all) for kind in kinds}
        print(f"first right answer after jitsu up: {(watcher.first_right_at or begun) - begun:.1f} s")
        print(f"NXDOMAIN for a name that is held: {counts['nxdomain'] + watcher.nxdomain}")
        print(f"jitsu status: {status_s:.1f} s; jitsu set until DNS shows it: {set_s:.2f} s")
        print("back after kill -9:", ", ".join(f"{service} {away:.2f} s" for service, away in run.away.items()))
        print(", ".join(f"{key} {count:,}" for key, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
