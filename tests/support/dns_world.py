"""A whole dns replica in one test: no sockets, no bus, and a clock that the test moves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import dns.message

from jitsu_dns.main import start
from jitsu_protocol.messages import Change, Committed, FeedItem, Leaves, VmList, VmStateChanged, VmStatus
from jitsu_protocol.model.vm import to_tree
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.settings.load import load
from tests.support.clock import VirtualClock
from tests.support.dns_sockets import FakeSockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from jitsu_dns.wires.replica import Replica
    from jitsu_protocol.messages import Message, Request
    from jitsu_protocol.model.states import VmState
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Feed, Handler, Snapshot

TURNS = 20
"""Of the event loop: as many as anything here needs to come to rest."""


class FakePeer:
    """Another service's rpc: the test answers each request when it likes."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, asyncio.Future[Any]]] = []

    async def call(self, request: Request, reply: type[Any], timeout: float) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.requests.append((request, answer))
        return await answer

    async def answer(self, reply: Message | Exception) -> Any:
        """Answer the oldest request that is open, and return it."""
        await settled()
        request, answer = self.requests.pop(0)
        if isinstance(reply, Exception):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)
        await settled()
        return request


class FakeFeed:
    """A feed that the replica follows."""

    def __init__(
        self, ask: Callable[[], Awaitable[Snapshot]], reset: Callable[[Any], None], apply: Callable[[FeedItem], None]
    ) -> None:
        self.ask, self.reset, self.apply = ask, reset, apply
        self.synced = asyncio.Event()
        self.live = self.heard = True
        self._number = 0

    def is_live(self) -> bool:
        return self.live

    def is_heard(self) -> bool:
        return self.heard

    async def snapshot(self) -> None:
        """Take a snapshot, as a feed does when it begins."""
        _, _, state = await self.ask()
        self.reset(state)
        self.synced.set()

    def publish(self, body: Message) -> None:
        self._number += 1
        fields = body.model_dump(mode="json")
        self.apply(FeedItem(epoch="e", number=self._number, body_kind=type(body).kind, body=fields))


class DnsWorld:
    """The world of a replica (jitsu_runtime.world.World)."""

    service = "dns"
    host = ""

    def __init__(self, settings: Settings, group: asyncio.TaskGroup) -> None:
        self.settings, self._group = settings, group
        self.time = VirtualClock(100.0)
        self.clock: Clock = self.time
        self.metrics = Metrics("dns")
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.store, self.reaper = FakePeer(), FakePeer()
        self.hosts = {host: FakePeer() for host in settings.bus.vmds}
        self.feeds: dict[tuple[str, str], FakeFeed] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.is_ready = False

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        self.tasks.append(self._group.create_task(work, name=name or None))
        return self.tasks[-1]

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        raise AssertionError("dns has no rpc")

    def publish(self, *topics: str) -> Feed:
        raise AssertionError("dns has no feed")

    def client(self, owner: str, host: str = "") -> FakePeer:
        return {"store": self.store, "reaper": self.reaper}[owner]

    def vmds(self) -> Any:
        return self.hosts

    def connect(self, endpoint: str, owner: str, host: str = "") -> FakePeer:
        raise AssertionError("dns connects by name")

    def subscribe(
        self,
        owner: str,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        host: str = "",
    ) -> FakeFeed:
        made = self.feeds[owner, host] = FakeFeed(ask, reset, apply)
        return made

    def ready(self) -> None:
        self.is_ready = True


async def settled() -> None:
    """Let everything run that has something to do now."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Serving:
    """A replica that serves, with what surrounds it."""

    def __init__(self, world: DnsWorld, sockets: FakeSockets) -> None:
        self.world, self.sockets = world, sockets
        self.replica: Replica

    async def learn(self, *vms: VM, serial: int = 7) -> None:
        """Let the store report these VMs, and every vmd that it has none yet."""
        leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
        page = Leaves(leaves=leaves, commit="c1", epoch="e", number=0, serial=serial)
        await settled()
        snapshot = asyncio.ensure_future(self.world.feeds["store", ""].snapshot())
        while not snapshot.done():
            await self.world.store.answer(page)
        for host, peer in self.world.hosts.items():
            listing = asyncio.ensure_future(self.world.feeds["vmd", host].snapshot())
            await peer.answer(VmList(vms=[], epoch="e", number=0))
            await listing
        await settled()

    def commit(self, changes: Mapping[str, str | None], serial: int) -> None:
        """Let the store publish a commit."""
        body = Committed(
            commit=f"c{serial}",
            serial=serial,
            changes=[Change(path=path, value=value) for path, value in changes.items()],
        )
        self.world.feeds["store", ""].publish(body)

    def state(self, vm: VM, state: VmState, *, drain: str = "", gone: bool = False) -> None:
        """Let vmd publish a VM's state."""
        status = VmStatus(uuid=vm.uuid, name=vm.name, state=state, drain=drain)
        self.world.feeds["vmd", vm.host].publish(VmStateChanged(vm=status, gone=gone))

    def ask(self, name: str, id: int = 1, *, udp: bool = True) -> None:
        query = dns.message.make_query(name, "A", use_edns=0, id=id)
        self.sockets.query(query.to_wire(), udp=udp)

    def answered(self) -> list[dns.message.Message]:
        """Return what was answered since the last time."""
        found = [dns.message.from_wire(data) for _, data in self.sockets.answers]
        self.sockets.answers.clear()
        return found


class _Over(Exception):
    """The test is over."""


@asynccontextmanager
async def serving(
    directory: Path,
    *vms: VM,
    settings: Mapping[str, str] | None = None,
    learns: bool = True,
    address: str = "127.0.0.1",
) -> AsyncIterator[Serving]:
    """Start a replica with these settings (`{"dns.forward": "off"}`), which knows these VMs."""
    flags = {"dns.forward": "off", "bus.runtime_dir": str(directory)}
    loaded = load(None, {}, flags | dict(settings or {}))
    try:
        async with asyncio.TaskGroup() as group:
            world = DnsWorld(loaded, group)
            made = Serving(world, FakeSockets(address))
            starting = asyncio.ensure_future(start(world, made.sockets))
            if learns:
                await made.learn(*vms)
                made.replica = await starting
            yield made
            starting.cancel()
            raise _Over
    except* _Over:
        pass
