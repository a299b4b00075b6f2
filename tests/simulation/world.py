"""The world of a simulated process: the rpc and feed ends of the real one, over links in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol import __version__
from jitsu_protocol.messages import Ping, Pong
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.feed_server import FeedServer
from jitsu_runtime.bus.rpc_client import RpcClient
from jitsu_runtime.bus.rpc_server import RpcServer
from jitsu_runtime.metrics import Metrics
from tests.simulation.simulation import UNIX_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_runtime.clock import Clock, Timer
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Handler, Snapshot
    from tests.simulation.simulation import Life, Simulation


class SimulatedClock:
    """The simulation's time, and the timers of one process."""

    def __init__(self, simulation: Simulation, life: Life) -> None:
        self._simulation, self._loop = simulation, life.loop

    def now(self) -> float:
        return self._simulation.now

    def wall(self) -> float:
        return UNIX_S + self._simulation.now

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(seconds, callback)


class SimulatedWorld:
    """A World."""

    def __init__(self, simulation: Simulation, life: Life, service: str, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.host = settings.hypervisor.host if service == "vmd" else ""
        self.metrics = Metrics(service)
        self.clock: Clock = SimulatedClock(simulation, life)
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.is_ready = False
        self._simulation, self._life = simulation, life
        self._network = simulation.network
        self._started = self.clock.now()

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        return self._life.owns(self._life.loop.create_task(work, name=name or None))

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        endpoint = str(self.settings.bus.endpoint(self.service, "rpc", self.host))
        every: dict[type[Request], Handler] = {Ping: self._pong, **handlers}
        link = self._network.owner(self._life, endpoint)
        self.spawn(RpcServer(link, every, self.metrics.dropped, self.clock).run(), "rpc")

    def publish(self, *topics: str) -> FeedServer:
        endpoint = str(self.settings.bus.endpoint(self.service, "feed", self.host))
        server = FeedServer(self._network.feed(self._life, endpoint), topics)
        self.spawn(server.run(), "feed")
        return server

    def client(self, owner: str, host: str = "") -> RpcClient:
        return self.connect(str(self.settings.bus.endpoint(owner, "rpc", host)), owner, host)

    def vmds(self) -> dict[str, Any]:
        return {host: self.client("vmd", host) for host in self.settings.bus.vmds}

    def connect(self, endpoint: str, owner: str, host: str = "") -> RpcClient:
        link = self._network.caller(self._life, endpoint)
        client = RpcClient(link, f"{owner} of {host}" if host else owner, self.clock)
        self.spawn(client.run(), f"client of {owner}")
        return client

    def subscribe(
        self,
        owner: str,
        topic: str,
        *,
        ask: Callable[[], Awaitable[Snapshot]],
        reset: Callable[[Any], None],
        apply: Callable[[FeedItem], None],
        host: str = "",
    ) -> FeedClient:
        endpoint = str(self.settings.bus.endpoint(owner, "feed", host))
        link = self._network.follower(self._life, endpoint, topic)
        client = FeedClient(link, topic, ask=ask, reset=reset, apply=apply, clock=self.clock)
        self.spawn(client.run(), f"feed of {owner}")
        return client

    def ready(self) -> None:
        self.is_ready = True
        self._simulation.note(f"{self._life.name:<9} is ready")

    def _pong(self, _: Ping) -> Pong:
        return Pong(
            service=self.service,
            version=__version__,
            pid=1,
            uptime_s=self.clock.now() - self._started,
            notes=self.notes() + self.left_out(),
        )
