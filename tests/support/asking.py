"""A process whose sends fail: an owner on the bus, callers that know the right reply, and a subscriber.

    python -m tests.support.asking TRANSPORT DIRECTORY CALLS

Prints what it saw as a line of JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq.asyncio

from jitsu_protocol.messages import Drain, Draining, Message
from jitsu_protocol.model.errors import JitsuError
from jitsu_runtime.bus import sockets
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.zeromq import ZmqFollower, feed_server, rpc_client, rpc_server
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.messages import FeedItem
    from jitsu_runtime.world import Snapshot


CALLERS = 20
AT_ONCE = 10
TIMEOUT_S = 20.0
SETTLED_S = 20.0


class Asking:
    """One run."""

    def __init__(self, rpc: str, feed: str) -> None:
        context: Callable[[], zmq.asyncio.Context] = zmq.asyncio.Context
        self.right = self.wrong = self.errors = self.carried_out = 0
        self.seen = ""
        """What the subscriber knows of the owner's state, which is the last drain."""
        self.state = ""
        self._owner = rpc_server(context(), rpc, {Drain: self._drain}, lambda _: None)
        self._feeds = feed_server(context(), feed, ["t"], dropped=lambda _: None)
        self._callers = [rpc_client(context(), rpc, "x") for _ in range(CALLERS)]
        link = ZmqFollower(context(), feed, "t")
        self._subscriber = FeedClient(
            link, "t", ask=self._snapshot, reset=self._reset, apply=lambda item: self._apply(item)
        )

    def _drain(self, request: Drain) -> Message:
        self.carried_out += 1
        self.state = request.vm
        self._feeds.publish("t", Draining(drain=request.vm))
        return Draining(drain=request.vm)

    async def _snapshot(self) -> Snapshot:
        await asyncio.sleep(0)
        publisher = self._feeds.feeds["t"]
        return publisher.epoch, publisher.number, self.state

    def _reset(self, state: Any) -> None:
        self.seen = state

    def _apply(self, item: FeedItem) -> None:
        self.seen = str((item.body or {})["drain"])

    async def _ask(self, number: int, calls: int) -> None:
        for call in range(calls):
            name = f"{number} {call}"
            try:
                reply = await self._callers[number % CALLERS].call(Drain(vm=name), Draining, TIMEOUT_S)
            except JitsuError:
                self.errors += 1
                continue
            if reply.drain == name:
                self.right += 1
            else:
                self.wrong += 1

    async def run(self, calls: int) -> None:
        """Make that many calls, then wait until the subscriber knows what the owner does."""
        async with asyncio.TaskGroup() as group:
            work = [self._owner.run(), self._feeds.run(), self._subscriber.run()]
            work += [each.run() for each in self._callers]
            tasks = [group.create_task(each) for each in work]
            askers = CALLERS * AT_ONCE
            await asyncio.gather(*(self._ask(number, calls // askers) for number in range(askers)))
            async with asyncio.timeout(SETTLED_S):
                while self.seen != self.state:
                    await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()


def main() -> None:
    """Run it."""
    transport, directory, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ipc = [f"ipc://{directory}/x.{kind}" for kind in ("rpc", "feed")]
    endpoints = ipc if transport == "ipc" else [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]

    # After a failed send libzmq sends nothing more on that connection, and its heartbeat ends it.
    sockets.HEARTBEAT_MS, sockets.DEAD_MS = 50, 150

    async def run() -> Asking:
        made = Asking(*endpoints)
        await made.run(calls)
        return made

    made = asyncio.run(run())
    counts = {key: getattr(made, key) for key in ("right", "wrong", "errors", "carried_out")}
    print(json.dumps(counts | {"failed": ctypes.CDLL(None).failed_sends()}))


if __name__ == "__main__":
    main()
