"""How soon twenty open pages see a change of one of two thousand VMs, and what jitsu-web takes for it.

The store and vmd are played by this process over the real bus; jitsu-web is a process of its own. Each page is a reader
of the stream. Two hundred VMs change their state in turn, fifty a second in all.

    python -m bench.web
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from jitsu_protocol.messages import Leaves, List, ListVms, VmList, VmStateChanged, VmStatus
from jitsu_protocol.messages.tokens import Digests, ReadDigests, TokenDigest
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.tokens import digest_of, token_of
from jitsu_protocol.model.vm import VM_ROOT, from_config, to_tree
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import feed_server, rpc_server

VMS = 200 if os.environ.get("JITSU_BENCH_BRIEF") else 2000
PAGES = 20
CHANGES_A_SECOND = 50
SECONDS = 3 if os.environ.get("JITSU_BENCH_BRIEF") else 20
PORT = 18_743
TOKEN = token_of(os.urandom(32))
TICKS = os.sysconf("SC_CLK_TCK")


def vms() -> list[Any]:
    made = []
    for n in range(VMS):
        config = {"name": [f"vm{n}"], "dns": [f"vm{n}.jitsu.test"], "ip": [f"10.1.{n // 250}.{n % 250 + 1}"]}
        made.append(from_config(config, {}))
    return made


class PlayedOwners:
    """A store and a vmd on the bus."""

    def __init__(self, directory: Path) -> None:
        self.vms = vms()
        self.states = {vm.uuid: VmState.READY for vm in self.vms}
        self.tree = {path: value for vm in self.vms for path, value in to_tree(vm).items()}
        context = Context()
        place = f"ipc://{directory}"
        self.vm_feed = feed_server(context, f"{place}/vmd.feed", ["vm"], None, lambda _: None)
        self.store_feed = feed_server(context, f"{place}/store.feed", ["vm", "heads", "tokens"], None, lambda _: None)
        self.work: list[Any] = [
            self.vm_feed,
            self.store_feed,
            rpc_server(context, f"{place}/vmd.rpc", {ListVms: self.list_vms}, lambda _: None),
            rpc_server(context, f"{place}/store.rpc", {List: self.leaves, ReadDigests: self.digests}, lambda _: None),
        ]

    def status(self, vm: Any) -> VmStatus:
        return VmStatus(uuid=vm.uuid, name=vm.name, state=self.states[vm.uuid], up_s=1.0)

    def list_vms(self, _: ListVms) -> VmList:
        feed = self.vm_feed.feeds["vm"]
        return VmList(vms=[self.status(vm) for vm in self.vms], epoch=feed.epoch, number=feed.number)

    def leaves(self, request: List) -> Leaves:
        feed = self.store_feed.feeds["vm"]
        if request.prefix != VM_ROOT:
            raise Unavailable("not played")
        return Leaves(leaves=self.tree, commit="c" * 40, epoch=feed.epoch, number=feed.number)

    def digests(self, _: ReadDigests) -> Digests:
        feed = self.store_feed.feeds["tokens"]
        token = TokenDigest(name="bench", role="viewer", digest=digest_of(TOKEN), created_ts=0.0)
        return Digests(tokens=[token], epoch=feed.epoch, number=feed.number)


async def read_page(sent: dict[str, float], delays: list[float], ready: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 24)
    writer.write(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    ready.set()
    try:
        while line := await reader.readline():
            if line.startswith(b"data: "):
                vm = json.loads(line[6:])
                if (at := sent.get(f"{vm.get('uuid')} {vm.get('state')}")) is not None:
                    delays.append(monotonic() - at)
    finally:
        writer.close()


async def get(path: str) -> tuple[float, int]:
    begun = monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    body = await reader.read()
    writer.close()
    assert b" 200 OK" in body[:40], body[:300]
    return monotonic() - begun, len(body)


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def measure(owners: PlayedOwners, pid: int) -> None:
    for _ in range(100):
        try:
            took, size = await get("/api/v1/vms?limit=1000")
            if size > 1000 * min(VMS, 1000):
                break
        except (OSError, AssertionError):
            pass
        await asyncio.sleep(0.2)
    lists = [(await get("/api/v1/vms?limit=1000"))[0] for _ in range(5)]
    took_ms = statistics.median(lists) * 1e3
    print(f"{VMS} VMs: a page of 1,000 is {size / 1e6:.1f} MB and takes {took_ms:.0f} ms (median of 5)")
    sent: dict[str, float] = {}
    delays: list[float] = []
    readers = []
    for _ in range(PAGES):
        ready = asyncio.Event()
        readers.append(asyncio.create_task(read_page(sent, delays, ready)))
        await ready.wait()
    await asyncio.sleep(1.0)
    began, used = monotonic(), processor_s(pid)
    count = SECONDS * CHANGES_A_SECOND
    for n in range(count):
        vm = owners.vms[n % (VMS // 10)]
        state = VmState.DRAINING if owners.states[vm.uuid] is VmState.READY else VmState.READY
        owners.states[vm.uuid] = state
        sent[f"{vm.uuid} {state.value}"] = monotonic()
        owners.vm_feed.publish("vm", VmStateChanged(vm=owners.status(vm)))
        await asyncio.sleep(max(0.0, began + (n + 1) / CHANGES_A_SECOND - monotonic()))
    await asyncio.sleep(1.0)
    took = monotonic() - began
    for reader in readers:
        reader.cancel()
    delays.sort()
    assert len(delays) >= count * PAGES, (len(delays), count * PAGES)
    print(
        f"{count} changes, {PAGES} pages, {len(delays)} rows: median {delays[len(delays) // 2] * 1e3:.1f} ms, "
        f"p99 {delays[int(len(delays) * 0.99)] * 1e3:.1f} ms, max {delays[-1] * 1e3:.1f} ms"
    )
    print(f"jitsu-web: {(processor_s(pid) - used) / took * 100:.0f} % of a core, {memory_mib(pid):.0f} MiB")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        owners = PlayedOwners(Path(directory))
        tasks = [asyncio.create_task(each.run()) for each in owners.work]
        words = ["--bus-runtime-dir", directory, "--listen", f"127.0.0.1:{PORT}", "--request-rate", "0"]
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "jitsu_web.main", *words)
        try:
            await measure(owners, child.pid)
        finally:
            child.terminate()
            await child.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
