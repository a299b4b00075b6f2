"""From a query to the first byte of a page of a unikernel that is off, and what its tender alone takes for that.

    python -m bench.unikernel [BOOTS [ROW ...]]

The rows are `alone`, `synjitsu`, `first-frame`, `port`, `not-pooled` and `at-once`; without any, or with ROWS="alone
at-once" in the environment, all or those are measured. A row of 1,000 boots takes about two minutes.

As root: a bridge and a client are network namespaces. The tender is the tests' stand-in for solo5-spt, or that of
TENDER=PATH with IMAGE=PATH, which serves HTTP on port 80 and takes `--ipv4=ADDRESS/PREFIX`. Of each boot through Jitsu
the timeline of vmd says which part took how long.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import dns.message
import dns.query

from bench.cpu import Meter
from bench.size import sized
from jitsu.link import connect
from jitsu_protocol.messages import Done, OperatorStop, Timelines, Trace
from jitsu_protocol.model.errors import Unavailable
from jitsu_runtime.settings.schema import BusSettings
from tests.support.lan import BRIDGE, ip, lan_suite, made_lan
from tests.support.solo5 import open_directory
from tests.support.unikernel import MAC, V4, add_tap, unikernel_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jitsu.link import Link
    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

BOOTS = int(sys.argv[1]) if len(sys.argv) > 1 else sized(1000, 2)
ROWS = sys.argv[2:] or os.environ.get("ROWS", "alone synjitsu first-frame port not-pooled at-once").split()
TRIES_AT_ONCE = sized(5, 2)
AT_ONCE = sized(100, 3)
LIMIT_S = 10.0
FIRST_ADDRESS = 120
"""Of the VMs, in 10.77.0.0/24; the client is 10.77.0.100."""
SERVED_S, STOPPED_S = 0.02, 0.08
"""Between a page and the stop: it may come before vmd knows that the VM is up. After a stop: until it has the news, dns
answers at once with the address (an operator's stop does not drain), and what is left to do after a boot is done."""
MS_PER_CHARACTER = 0.5
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A runtime directory is in memory, as /run is: each boot makes and removes some files there."""
GET = b"GET / HTTP/1.0\r\n\r\n"
SYNJITSU = "use_synjitsu = true"
WAYS = {
    "synjitsu": ("Synjitsu, taps pooled", 4, SYNJITSU),
    "first-frame": ("first frame, taps pooled", 4, 'ready = "first-frame"\nresponse_delay = 0'),
    "port": ("port, taps pooled", 4, "wait_for_port = 80\nresponse_delay = 0"),
    "not-pooled": ("Synjitsu, taps not pooled", 0, SYNJITSU),
}
"""Row -> what it is called, the taps that are kept, and the VM's keys: how its boot is hidden."""
VM = """[vm.n{number}]
dns = "n{number}.jitsu.test"
ip = "10.77.0.{address}"
kernel = "{image}"
memory = 16384
ttl = 1
idle_timeout = 3600
cmdline = "--name={{name}} --ipv4={{ip}}/{{prefix}}"
{how}
"""


def first_byte(address: str) -> float:
    """Fetch the page of a guest; return when its first byte came."""
    with socket.create_connection((address, 80), LIMIT_S) as client:
        client.sendall(GET)
        assert client.recv(4096).startswith(b"HTTP/")
        return monotonic()


def asked(port: int, name: str) -> tuple[float, float]:
    """Ask for a name and fetch its page; return how long the answer took, and the first byte, in ms since the query."""
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    begun = monotonic()
    reply = dns.query.udp(query, "10.77.0.1", port=port, timeout=LIMIT_S)
    answered = monotonic()
    assert reply.answer, reply
    return 1000 * (answered - begun), 1000 * (first_byte(str(reply.answer[0][0])) - begun)


def row(what: str, times: list[float]) -> None:
    """Print median, 99th percentile and maximum."""
    ordered = sorted(times)
    median, p99 = statistics.median(ordered), ordered[len(ordered) * 99 // 100]
    bar = "━" * round(median / MS_PER_CHARACTER)
    print(f"{what:<34}{median:>8.2f}{p99:>9.2f}{ordered[-1]:>9.2f}   {bar}", flush=True)


def alone(lan: Lan, programs: Path, image: str) -> list[float]:
    """Return how long the tender alone took from its start to the first byte of its page, on a tap that is there."""
    add_tap(lan, "tap0")
    tender = os.environ.get("TENDER", str(programs / "solo5-spt"))
    options = ["--mem=16", "--net:service=tap0", f"--net-mac:service={MAC}"]
    command = [tender, *options, "--", image, "--name=alone", f"--ipv4={V4}/24"]
    ip("-n", lan.clients[0], "neigh", "replace", V4, "lladdr", MAC, "dev", "eth0", "nud", "permanent")

    def boot() -> float:
        begun = monotonic()
        process = lan.run_on_host(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        process.stdout.readline()  # until then its tap has no carrier, and loses what the client sends
        came_at: float = lan.run(0, lambda: first_byte(V4))
        process.kill()
        process.wait()
        process.stdout.close()
        return 1000 * (came_at - begun)

    return [boot() for _ in range(BOOTS)]


class Suite:
    """A suite, with a link to it that stays open: the command line takes longer to start than a boot does."""

    def __init__(self, suite: RunningSuite, runner: asyncio.Runner, link: Link) -> None:
        self.port = suite.port
        self.processes = suite.processes
        self._runner = runner
        self._link = link

    def stop(self, *vms: str) -> None:
        """Stop VMs."""
        self._runner.run(self._stop(vms))

    async def _stop(self, vms: tuple[str, ...]) -> None:
        await asyncio.gather(*(self._stop_one(vm) for vm in vms))

    async def _stop_one(self, vm: str) -> None:
        """Stop a VM; its page may come before vmd knows that it is up, and what starts is not stopped."""
        until = monotonic() + LIMIT_S
        while True:
            try:
                await self._link.call("vmd", OperatorStop(vm=vm), Done, LIMIT_S)
            except Unavailable:
                if monotonic() > until:
                    raise
                await asyncio.sleep(0.002)
            else:
                return

    def timelines(self, count: int) -> Timelines:
        """Return the latest summons."""
        return self._runner.run(self._link.call("vmd", Trace(limit=min(count, 1000)), Timelines, LIMIT_S))


@contextmanager
def suite_of(lan: Lan, directory: Path, image: str, tender: str, taps: int, how: str, vms: int) -> Iterator[Suite]:
    """Run a suite with so many unikernels."""
    toml = f'[hypervisor]\nkind = "solo5"\nbridge = "{BRIDGE}"\ntaps = {taps}\ntender = "{tender}"\n'
    for number in range(vms):
        toml += VM.format(number=number, address=FIRST_ADDRESS + number, image=image, how=how)
    with lan_suite(directory, toml, lan=lan) as (_, suite), asyncio.Runner() as runner:
        connected = connect(BusSettings(runtime_dir=str(suite.directory / "run")))
        try:
            yield Suite(suite, runner, runner.run(connected.__aenter__()))
        finally:
            runner.run(connected.__aexit__(None, None, None))


def uuids(suite: Suite) -> dict[str, str]:
    """Return the UUID of each VM that has been started, by name."""
    return {each.name: each.vm for each in suite.timelines(1000).timelines}


def through_jitsu(lan: Lan, suite: Suite, meter: Meter) -> tuple[list[float], list[float]]:
    """Return how long answers and pages took, in ms since the query; the meter runs until SERVED_S after the page."""
    answers, pages = [], []
    uuid = ""
    for _ in range(BOOTS):
        with meter.running():
            answer, page = lan.run(0, lambda: asked(suite.port, "n0"))
            sleep(SERVED_S)
        answers.append(answer)
        pages.append(page)
        uuid = uuid or uuids(suite)["n0"]
        suite.stop(uuid)
        sleep(STOPPED_S)
    return answers, pages


def report_parts(suite: Suite) -> None:
    """Print how long each stage of the summons took, from the one before it."""
    parts: dict[str, list[float]] = defaultdict(list)
    for each in suite.timelines(BOOTS).timelines:
        before = each.stages[0][1]
        for stage, at in each.stages[1:]:
            parts[stage].append(1000 * (at - before))
            before = at
    for stage, times in parts.items():
        row(f"    until {stage}", times)


def all_at_once(lan: Lan, suite: Suite, ask: Callable[[str], tuple[float, float]]) -> None:
    """Ask for all names at once; print when the last page came."""
    names = [f"n{number}" for number in range(AT_ONCE)]

    def all_of_them() -> float:
        begun = monotonic()
        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(lambda name: lan.run(0, lambda: ask(name)), names))
        return 1000 * (monotonic() - begun)

    meter = Meter(suite.processes())
    for _ in range(TRIES_AT_ONCE):
        with meter.running():
            took = all_of_them()
        print(f"{len(names)} names at once: the last page after {took:.0f} ms", flush=True)
        suite.stop(*uuids(suite).values())
        sleep(1.0)
    meter.print_per("boot", TRIES_AT_ONCE * AT_ONCE)


def main() -> int:
    """Run the benchmark."""
    if unknown := set(ROWS) - {"alone", *WAYS, "at-once"}:
        print(f"there is no row {', '.join(sorted(unknown))}; rows are: alone {' '.join(WAYS)} at-once")
        return 2
    with made_lan(1) as lan, open_directory() as programs, tempfile.TemporaryDirectory(dir=IN_MEMORY) as scratch:
        shutil.copytree(unikernel_programs(), programs, dirs_exist_ok=True)
        programs.chmod(0o755)
        tender = os.environ.get("TENDER", str(programs / "solo5-spt"))
        image = os.environ.get("IMAGE", str(programs / "web.spt"))
        print(f"{BOOTS} boots each, with {'the stand-in of the tests' if 'TENDER' not in os.environ else tender}")
        print(f"{'ms':<34}{'median':>8}{'p99':>9}{'max':>9}", flush=True)
        if "alone" in ROWS:
            row("the tender alone, to the page", alone(lan, programs, image))
            ip("-n", lan.host, "link", "delete", "tap0")
        for name, (way, taps, how) in WAYS.items():
            if name not in ROWS:
                continue
            with suite_of(lan, Path(tempfile.mkdtemp(dir=scratch)), image, tender, taps, how, 1) as suite:
                meter = Meter(suite.processes())
                answers, pages = through_jitsu(lan, suite, meter)
                row(f"{way}: answer", answers)
                row(f"{way}: page", pages)
                report_parts(suite)
                meter.print_per("boot", BOOTS)
        if "at-once" in ROWS:
            directory = Path(tempfile.mkdtemp(dir=scratch))
            with suite_of(lan, directory, image, tender, AT_ONCE, SYNJITSU, AT_ONCE) as suite:
                sleep(1.0)
                all_at_once(lan, suite, lambda name: asked(suite.port, name))
        left = subprocess.run(["ip", "-n", lan.host, "-br", "link"], check=True, capture_output=True, text=True).stdout
        print(f"taps left behind: {sum(line.startswith('js') for line in left.splitlines())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
