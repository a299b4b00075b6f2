"""A zone of 100,000 names under full load while it changes, and warm queries while 1,000 names are cold.

    python -m bench.dns_large

Server and generator have a core each. Printed: memory; how long after its acknowledgement a change is answered, and
what the load lost meanwhile; the warm queries' latency while 1,000 other names are asked for at once, cold.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import dns.message
import dns.query

from bench.dns_peers import ZONE
from bench.dns_warm import LOAD_CORE, load, names_of, pin, resident_mb, summon_all, toml_of
from bench.size import sized
from jitsu.link import connect
from jitsu_protocol.messages import Applied, Apply, Change
from jitsu_runtime.settings.schema import BusSettings
from tests.support.dns import ask_all
from tests.support.suite import RunningSuite, vm_toml, wait_for

NAMES, COLD = sized((100_000, 1_000), (1_000, 20))
CHANGES, CHANGE_EVERY_S = sized(8, 2), 0.7
EACH_S = sized(5.0, 0.5)
BEFORE_S = sized(3.0, 1.5)
"""Of the load, without a change."""
WARM_RATE = sized(5_000, 500)
WARM_S = sized(6.0, 3.0)
CHANGING_RATE = sized(80_000, 2_000)
"""Half of what the server can; the generator must leave its core to the other processes for a while too."""


async def change(suite: RunningSuite, uuid: str, value: str) -> float:
    """Commit another address of a VM, and return when that was acknowledged."""
    bus = BusSettings.model_validate({"runtime_dir": str(suite.directory / "run")})
    async with connect(bus) as link:
        changes = [Change(path=f"jitsu/vm/{uuid}/ip", value=value)]
        request = Apply(changes=changes, author="operator:bench", message="Changed", request=value)
        await link.call("store", request, Applied)
    return monotonic()


def visible(port: int, name: str, address: str, since: float) -> float:
    """Return how many milliseconds after a moment an answer has the address."""
    query = dns.message.make_query(name, "A")
    while monotonic() < since + 10:
        if address in dns.query.udp(query, "127.0.0.1", port=port, timeout=5).to_text():
            return 1000 * (monotonic() - since)
    raise AssertionError(f"{name} does not change")


def changes(suite: RunningSuite, names: Path) -> None:
    """Print what changes under load do."""
    changing = suite.status()["changing"]["uuid"]
    seconds = BEFORE_S + (CHANGES + 1) * CHANGE_EVERY_S
    took: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        loaded = thread.submit(load, suite.port, names, seconds, rate=CHANGING_RATE)
        sleep(BEFORE_S)
        for number in range(CHANGES):
            address = f"127.29.1.{number + 2}"
            acknowledged = asyncio.run(change(suite, changing, address))
            took.append(visible(suite.port, f"n{number}.changing.{ZONE}", address, acknowledged))
            sleep(CHANGE_EVERY_S)
        found: dict[str, Any] = loaded.result()
    windows = found["windows"]
    quiet = int((BEFORE_S - 0.5) / 0.1)
    before, during = windows[5:quiet], windows[quiet:]
    print(f"change visible after its acknowledgement: {statistics.median(took):.1f} ms, {max(took):.1f} at most")
    print(
        f"of {CHANGING_RATE:,} queries a second {10 * statistics.mean(before):,.0f} are answered before, "
        f"{10 * statistics.mean(during):,.0f} with a change each {CHANGE_EVERY_S} s; "
        f"worst 0.1 s: {10 * min(before):,.0f} and {10 * min(during):,.0f}; "
        f"{found['wrong']} wrong, {found['lost']} lost"
    )


def large(directory: Path) -> None:
    """Print what a zone of 100,000 names costs."""
    names = names_of(NAMES)
    file = directory / "names"
    file.write_text("".join(f"{name} {address}\n" for name, address in names.items()))
    own = ", ".join(f'"n{n}.changing.{ZONE}"' for n in range(CHANGES))
    toml = toml_of(names) + f'[vm.changing]\ndns = [{own}]\nip = "127.29.1.1"\nidle_timeout = 3600\n'
    toml += "boot_time = 0\nresponse_delay = 0\n"
    with RunningSuite(directory, toml=toml) as suite:
        pid = suite.pid("dns")
        assert pid is not None
        print(
            f"{NAMES:,} names of {len(set(names.values())):,} VMs: dns has {resident_mb(pid):.0f} MB when it is ready"
        )
        summon_all(suite.port, file)
        load(suite.port, file, EACH_S)
        load(suite.port, file, EACH_S, edns=True)
        print(f"each asked for, plain and with EDNS: {resident_mb(pid):.0f} MB")
        pin(suite, nice=False)
        os.sched_setaffinity(0, {LOAD_CORE})
        changes(suite, file)


def cold_beside_warm(directory: Path) -> None:
    """Print the latency of warm queries while as many names as VMs are cold."""
    file = directory / "warm"
    file.write_text(f"warm.{ZONE} 127.28.0.1\n")
    keys: dict[str, Any] = {"ttl": 60, "idle_timeout": 3600, "boot_time": 0, "response_delay": 0, "max_wait": 4}
    toml = vm_toml("warm", "127.28.0.1", **keys).replace("warm.jitsu.test", f"warm.{ZONE}")
    for n in range(COLD):
        toml += vm_toml(f"c{n}", f"127.28.{n // 250 + 1}.{n % 250 + 1}", **keys)
    with RunningSuite(directory, toml=toml) as suite:
        summon_all(suite.port, file)
        wait_for(lambda: suite.state("warm") == "ready", 5, "warm is")
        pin(suite, nice=False)
        with ThreadPoolExecutor(1) as thread:
            loaded = thread.submit(load, suite.port, file, WARM_S, rate=WARM_RATE, first=True)
            sleep(2.0)
            begun = monotonic()
            answers = asyncio.run(ask_all([f"c{n}.jitsu.test" for n in range(COLD)], suite.port))
            took = monotonic() - begun
            found = loaded.result()
        right = sum(answer.rcode == "NOERROR" and len(answer.addresses) == 1 for answer in answers)
        print(f"{COLD:,} cold names at once: {right:,} answered rightly, the last after {took:.2f} s")
        print(
            f"warm meanwhile, {WARM_RATE:,} queries a second for {WARM_S:.0f} s: p50 {found['p50_ms']:.2f} ms, "
            f"p99 {found['p99_ms']:.2f} ms, {found['wrong']} wrong, {found['lost']} lost"
        )


def main() -> int:
    """Run the benchmark."""
    for part in (cold_beside_warm, large):
        with tempfile.TemporaryDirectory() as directory:
            part(Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
