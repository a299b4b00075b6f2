"""The store with 10,000 VMs of 12 keys: start, one change, statistics, and what a long history costs on the disk.

    python -m bench.store [CHANGES]

The store is a process of its own and is asked over its rpc; all changes go to the disk. CHANGES (100,000) one-key
changes by four clients make the long history. Client, store and packer share the machine. The packer's peak memory is
what the kernel counts (VmHWM of proc_pid_status(5)), with the pages of packs that it has mapped. More than
packer.MAX_MEMORY_MB makes the benchmark fail.
"""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from time import monotonic

from bench.size import sized
from jitsu_protocol.messages import Done, History, Log, Record
from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT
from jitsu_store.git.files import TEMPORARY
from jitsu_store.wires.repacker import MAX_MEMORY_MB
from jitsu_store.wires.repacker_child import QUIET_S
from tests.support.store import git
from tests.support.store_process import StoreProcess, store_process

VMS = sized(10_000, 50)
SINGLE_CHANGES = sized(2000, 20)
CLIENTS = 4
STATISTICS_S = sized(10, 1)
STATISTICS_PER_S = 200
LATENCY_PAUSE_S = 0
SETTLED_S = sized(QUIET_S + 10, 1.0)
PEAK_LOOK_S = 0.2
"""Between two looks at the packer's peak memory. A packer waits for longer than that before it ends."""


def vm_leaves(number: int, vm: str) -> dict[str, str]:
    """Return the 12 keys of a VM."""
    name, address = f"n{number}.example.org", f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
    config = {"dns": name, "ip": address, "name": f"n{number}", "ttl": "60", "response_delay": "0.1"}
    leaves = {f"config/{key}/0": value for key, value in config.items()}
    leaves |= {f"dns/{name}/ttl": "60", "ip": address, "stop_mode": "destroy", "response_delay": "0.1"}
    leaves |= {"use_synjitsu": "false", "idle_timeout": "120", "max_wait": "1.2"}
    return {f"{VM_ROOT}/{vm}/{key}": value for key, value in leaves.items()}


def one_key(chance: random.Random, vms: list[str]) -> dict[str, str | None]:
    """Return a change as an operator might make it."""
    key, value = chance.choice(
        (("response_delay", f"{chance.randrange(30) / 10}"), ("idle_timeout", str(chance.randrange(60, 600, 10))))
    )
    return {f"{VM_ROOT}/{chance.choice(vms)}/{key}": value}


def row(name: str, value: str) -> None:
    """Print a line of the table."""
    print(f"{name:<58}{value:>24}", flush=True)


def size_mb(path: Path) -> float:
    """Return what a directory holds, in MB."""
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) / 1e6


class PackerMemory:
    """Watches the packers of a store, and keeps the largest peak of their memory."""

    def __init__(self, store: StoreProcess) -> None:
        self._store = store
        self.peak_mb = 0.0

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(OSError):  # the store, or a packer, has just ended
                for child in self._store.children():
                    self._look(Path(f"/proc/{child}"))
            await asyncio.sleep(PEAK_LOOK_S)

    def _look(self, process: Path) -> None:
        if b"jitsu_store.wires.repacker" not in (process / "cmdline").read_bytes():
            return  # it is a transfer, or has not become the packer yet
        _, found, rest = (process / "status").read_text().partition("VmHWM:")
        if found:  # a process that has ended has no memory
            self.peak_mb = max(self.peak_mb, int(rest.split()[0]) * 1024 / 1e6)


async def filled(store: StoreProcess, vms: list[str]) -> None:
    """Give the store its VMs, a thousand at a time."""
    for begin in range(0, VMS, 1000):
        changes: dict[str, str | None] = {}
        for number in range(begin, min(VMS, begin + 1000)):
            changes |= vm_leaves(number, vms[number])
        await store.apply(changes, timeout=60)


async def single_changes(store: StoreProcess, vms: list[str]) -> None:
    """Change one key after the other, and print how long each took until it was acknowledged."""
    chance, took = random.Random(1), []
    for _ in range(SINGLE_CHANGES):
        change = one_key(chance, vms)
        begun = monotonic()
        await store.apply(change)
        took.append(1000 * (monotonic() - begun))
        await asyncio.sleep(LATENCY_PAUSE_S)
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    row("one key changed, acknowledged and on the disk", f"median {statistics.median(took):.1f} ms")
    row("", f"p99 {cuts[98]:.1f} ms")


async def recorded(store: StoreProcess, vms: list[str]) -> None:
    """Record statistics steadily, and print what they cost."""
    chance = random.Random(2)
    before = len((await store.call(Log(limit=10_000), History, 60)).commits)
    for number in range(STATISTICS_S * STATISTICS_PER_S):
        path = f"{STATS_ROOT}/{chance.choice(vms)}/total_starts"
        await store.call(Record(values={path: str(number)}, service="vmd"), Done)
        await asyncio.sleep(1 / STATISTICS_PER_S)
    commits = len((await store.call(Log(limit=10_000), History, 60)).commits) - before
    row(f"{STATISTICS_PER_S} statistics a second", f"{commits} commits in {STATISTICS_S} s")


async def many_changes(store: StoreProcess, vms: list[str], count: int) -> None:
    """Change keys from several clients without a pause."""

    async def client(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(count // CLIENTS):
            await store.apply(one_key(chance, vms), timeout=30)

    begun = monotonic()
    await asyncio.gather(*(client(10 + number) for number in range(CLIENTS)))
    took = monotonic() - begun
    row(f"{count} changes by {CLIENTS} clients", f"{count / took:.0f} a second")


async def packed(path: Path) -> None:
    """Wait until the packer has nothing left to do."""
    packs = path / "objects" / "pack"
    quiet_since, seen = monotonic(), -1
    while monotonic() < quiet_since + SETTLED_S:
        now = len(list(packs.glob("*.pack")))
        if now != seen or list(packs.glob(TEMPORARY + "*")):  # one that is being written
            quiet_since, seen = monotonic(), now
        await asyncio.sleep(0.5)


async def main() -> int:
    """Run the benchmark; a signal ends it with the store that it has started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else sized(100_000, 200)
    vms = [str(uuid.UUID(int=random.Random(0).getrandbits(128) ^ number << 64)) for number in range(VMS)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "db"
        async with store_process(path, Path(directory) / "run") as store:
            await store.start()
            memory = PackerMemory(store)
            watching = asyncio.create_task(memory.watch())
            await filled(store, vms)
            store.stop()
            row(f"start with {VMS} VMs of 12 keys", f"{await store.start():.1f} s")
            await single_changes(store, vms)
            await recorded(store, vms)
            await packed(path)
            row("on the disk, packed", f"{size_mb(path):.1f} MB")
            await many_changes(store, vms, changes)
            row("on the disk at that moment", f"{size_mb(path):.1f} MB")
            await packed(path)
            row(f"on the disk after {changes} changes, packed", f"{size_mb(path):.1f} MB")
            store.stop()
            row("start with that history", f"{await store.start():.1f} s")
            watching.cancel()
            row(f"the packer's memory, at most {MAX_MEMORY_MB} MB", f"{memory.peak_mb:.0f} MB")
        git(path, "fsck", "--connectivity-only")
    return 0 if memory.peak_mb <= MAX_MEMORY_MB else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
