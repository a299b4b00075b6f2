"""Callers that ask each service for what it is there for, while others attack it: every request must succeed, and soon.

A process of its own: `python -m tests.support.honest_callers DIRECTORY DNS-PORT` runs until its standard input ends,
and then prints as JSON what failed, how long a ping took at most (without the time for which the service or this
process had no processor), and how many requests there were. plan.json in the directory says where the services are.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.asyncquery
import dns.message
import zmq.asyncio

from jitsu_protocol.messages import (
    Applied,
    Apply,
    Arm,
    Change,
    Disarm,
    Done,
    Leaves,
    List,
    ListVms,
    Ping,
    Pong,
    Read,
    Report,
    Summon,
    Summoned,
    Value,
    VmList,
)
from jitsu_protocol.model.errors import JitsuError
from jitsu_runtime.bus.curve import Curve
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.zeromq import ZmqFollower, rpc_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from jitsu_runtime.bus.rpc_client import RpcClient
    from jitsu_runtime.world import Snapshot


CALL_LIMIT_S = 5.0
DNS_LIMIT_S = 2.0
EVERY_S = 0.1
PING_EVERY_S = 0.02
MAX_FAILURES = 20


def waited_for_a_processor(pid: int) -> float:
    """Return how many seconds a process's main thread could have run and others had the processors (proc(5))."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Callers:
    """One of each kind."""

    def __init__(self, plan: dict[str, Any], port: int) -> None:
        self._plan, self._port = plan, port
        self._context = zmq.asyncio.Context()
        self._tasks: list[asyncio.Task[None]] = []
        self._curves = {
            role: Curve(self._context, Path(plan["keys"]), role, self._spawn) for role in ("operator", "vmd", "dns")
        }
        self.failures: list[str] = []
        self.slowest_ping = dict.fromkeys(plan["owners"], 0.0)
        self.slowest_call: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self._count = 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _client(self, owner: str, role: str = "operator") -> RpcClient:
        client = rpc_client(self._context, self._plan["owners"][owner], owner, self._curves[role])
        self._spawn(client.run())
        return client

    async def run(self, over: asyncio.Event) -> None:
        """Call until it is over."""
        store, vmd = self._client("store"), self._client("vmd")
        synjitsu, reaper = self._client("synjitsu", "vmd"), self._client("reaper", "dns")
        www, spare = self._plan["honest"]
        path = f"jitsu/vm/{www}/response_delay"

        async def change() -> None:
            self._count += 1
            value = f"0.{self._count % 90 + 10}"
            apply = Apply(
                changes=[Change(path=path, value=value)],
                author="operator:honest",
                message="an honest change",
                request=f"honest-{self._count}",
            )
            await store.call(apply, Applied, CALL_LIMIT_S)
            assert (await store.call(Read(path=path), Value, CALL_LIMIT_S)).value == value

        async def see() -> None:
            leaves = (await store.call(List(prefix=f"jitsu/vm/{spare}"), Leaves, CALL_LIMIT_S)).leaves
            assert any(value == "spare.jitsu.test" for value in leaves.values()), leaves

        async def summon() -> None:
            await vmd.call(Summon(vm=www, trigger="operator"), Summoned, CALL_LIMIT_S)
            states = {vm.uuid: vm for vm in (await vmd.call(ListVms(), VmList, CALL_LIMIT_S)).vms}
            assert states[www].starts == 1, states[www]

        async def arm() -> None:
            request = Arm(vm=spare, addresses=["10.77.0.12"], mac="02:00:5e:00:53:99", bridge="jt0", limit_s=30.0)
            await synjitsu.call(request, Done, CALL_LIMIT_S)
            await synjitsu.call(Disarm(vm=spare, outcome="ready"), Done, CALL_LIMIT_S)

        async def report() -> None:
            self._count += 1
            told = Report(replica="honest", instance="1", batch=self._count, lease_s=30.0, uses=[(www, "", 1, 0.0)])
            await reaper.call(told, Done, CALL_LIMIT_S)

        async def query() -> None:
            asked = dns.message.make_query("www.jitsu.test", "A")
            answer = await dns.asyncquery.udp(asked, "127.0.0.1", DNS_LIMIT_S, self._port)
            assert "10.77.0.10" in answer.to_text(), answer.to_text()

        work = {"change": change, "see": see, "summon": summon, "arm": arm, "report": report, "query": query}
        async with asyncio.TaskGroup() as group:
            for owner in self._plan["owners"]:
                group.create_task(self._ping(owner, over))
            for name, call in work.items():
                group.create_task(self._again_and_again(name, call, over))
            group.create_task(self._follow("store", over))
            group.create_task(self._follow("vmd", over))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    async def _ping(self, owner: str, over: asyncio.Event) -> None:
        client = self._client(owner)
        pid = (await client.call(Ping(), Pong, CALL_LIMIT_S)).pid

        def waits() -> float:
            return waited_for_a_processor(pid) + waited_for_a_processor(os.getpid())

        async def ping() -> None:
            begun, waited = time.monotonic(), waits()
            assert (await client.call(Ping(), Pong, CALL_LIMIT_S)).pid == pid, f"{owner} was started again"
            took = time.monotonic() - begun - (waits() - waited)
            self.slowest_ping[owner] = max(self.slowest_ping[owner], took)

        await self._again_and_again(f"ping {owner}", ping, over, PING_EVERY_S)

    async def _again_and_again(
        self, name: str, call: Callable[[], Awaitable[None]], over: asyncio.Event, every_s: float = EVERY_S
    ) -> None:
        while not over.is_set():
            begun = time.monotonic()
            try:
                await call()
            except (JitsuError, AssertionError, OSError, dns.exception.DNSException) as error:
                self._failed(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            took = time.monotonic() - begun
            self.slowest_call[name] = max(self.slowest_call.get(name, 0.0), took)
            self.calls[name] += 1
            await asyncio.sleep(every_s)

    async def _follow(self, owner: str, over: asyncio.Event) -> None:
        """Follow a feed: it is never silent."""
        client = self._client(owner)

        async def ask() -> Snapshot:
            if owner == "vmd":
                listed = await client.call(ListVms(), VmList, CALL_LIMIT_S)
                return listed.epoch, listed.number, None
            leaves = await client.call(List(prefix="jitsu/vm", limit=1), Leaves, CALL_LIMIT_S)
            return leaves.epoch, leaves.number, None

        link = ZmqFollower(self._context, self._plan["feeds"][owner], "vm", owner, curve=self._curves["operator"])
        feed = FeedClient(
            link,
            "vm",
            ask=ask,
            reset=lambda _: None,
            apply=lambda _: self.calls.update([f"items of {owner}"]),
        )
        self._spawn(feed.run())
        await asyncio.wait_for(feed.synced.wait(), CALL_LIMIT_S)
        while not over.is_set():
            if not feed.is_heard():
                self._failed(f"the feed of {owner} is silent")
            await asyncio.sleep(EVERY_S)

    def _failed(self, what: str) -> None:
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(what)


async def main(directory: str, port: str) -> None:
    """Call until standard input ends, and print what became of it."""
    callers = Callers(json.loads(Path(directory, "plan.json").read_text()), int(port))
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    await callers.run(over)
    found = {
        "failures": callers.failures,
        "slowest_ping": callers.slowest_ping,
        "slowest_call": callers.slowest_call,
        "calls": callers.calls,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
