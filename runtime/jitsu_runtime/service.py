"""How the process of a service runs: settings, logging, signals, readiness, and one task group that owns every task.

    start    read the settings, open the sockets, spawn the tasks, report that the service is ready
    run      until SIGTERM or SIGINT comes, or until a task fails
    SIGHUP   read the configuration again, and adopt the settings that can change in a running process
    stop     call `on_stop`, cancel all tasks, close the sockets

A task that fails ends the process, because the supervisor's restart is better understood than a service that goes on
with a part missing. The exit status says why the process ended:

    0  a signal stopped it
    1  a task failed, or the process lost an endpoint of the bus to another one
    2  it cannot run as it is configured; a restart does not help, and the same holds for the next two
    3  the store's repository is damaged
    4  the store's repository cannot be written to
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import uvloop

from jitsu_protocol import __version__
from jitsu_protocol.messages import Ping, Pong
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime import logs
from jitsu_runtime.bus.curve import Curve
from jitsu_runtime.bus.feed_client import FeedClient
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import ZmqFollower, feed_server, rpc_client, rpc_server
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.descriptors import raise_limit
from jitsu_runtime.first_signals import on_hangup
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.service_manager import notify, on_stop_signals, wait_to_begin
from jitsu_runtime.settings.command_line import load_service
from jitsu_runtime.settings.load import Settings, SettingsFault
from jitsu_runtime.tasks import EndableGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_runtime.bus.feed_server import FeedServer
    from jitsu_runtime.bus.rpc_client import RpcClient
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Caller, Handler, Snapshot, World

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

EXIT_FAILED = 1
EXIT_SETUP = 2
BEAT_S = 1.0
COLLECT_AFTER = (50_000, 20, 20)
"""The thresholds of the garbage collector (gc.set_threshold): how many new objects there are before Python searches
them for cycles, and how many searches before it searches older objects too. With 10,000 VMs a process makes a million
objects that stay. With Python's default of 700, a quarter of its time went into searching them (measured)."""

log = structlog.get_logger("process")


@dataclass(frozen=True)
class _Transport:
    """What every socket of this process is made with."""

    context: Context
    curve: Curve | None
    """None, if the settings name no keys."""


class RealWorld:
    """The world of a process (world.py): ZeroMQ sockets, this machine's clock, and the group that owns all tasks."""

    def __init__(self, service: str, settings: Settings, group: asyncio.TaskGroup) -> None:
        self.service = service
        self.settings = settings
        self.group = group
        self.metrics = Metrics(service)
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.clock: Clock = SYSTEM_CLOCK
        context, keys = Context(), settings.bus.keys_directory
        curve = None if keys is None else Curve(context, keys, service, self.spawn, self.metrics.dropped)
        self._transport = _Transport(context, curve)
        self._started = self.clock.now()

    @property
    def host(self) -> str:
        """Which of several vmds this is; empty for every other service."""
        return self.settings.hypervisor.host if self.service == "vmd" else ""

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Run a coroutine as a task of this process; if it fails, the process ends.

        While the process is ending the coroutine is not run, because a timer that rings then must not do harm.
        """
        try:
            return self.group.create_task(work, name=name or None)
        except RuntimeError:  # the group has ended, or is cancelling its tasks
            work.close()
            return asyncio.get_running_loop().create_task(asyncio.sleep(0))

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        """Bind this service's rpc."""
        endpoint = str(self.settings.bus.endpoint(self.service, "rpc", self.host))
        every: dict[type[Request], Handler] = {Ping: self._pong, **handlers}
        server = rpc_server(self._transport.context, endpoint, every, self.metrics.dropped, self._transport.curve)
        self.spawn(server.run(), "rpc")

    def publish(self, *topics: str) -> FeedServer:
        """Bind this service's feed."""
        endpoint = str(self.settings.bus.endpoint(self.service, "feed", self.host))
        server = feed_server(self._transport.context, endpoint, topics, self._transport.curve, self.metrics.dropped)
        self.spawn(server.run(), "feed")
        return server

    def client(self, owner: str, host: str = "") -> RpcClient:
        """Connect to another service's rpc."""
        return self.connect(str(self.settings.bus.endpoint(owner, "rpc", host)), owner, host)

    def vmds(self) -> dict[str, Caller]:
        """Connect to every vmd, and return the clients by host."""
        return {host: self.client("vmd", host) for host in self.settings.bus.vmds}

    def connect(self, endpoint: str, owner: str, host: str = "") -> RpcClient:
        """Connect to an rpc by its endpoint; `owner` is what error messages call it."""
        client = rpc_client(self._transport.context, endpoint, owner, self._transport.curve, host)
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
        """Follow another service's feed; `owner` is the service, or an endpoint with its scheme."""
        endpoint = owner if "://" in owner else str(self.settings.bus.endpoint(owner, "feed", host))
        link = ZmqFollower(self._transport.context, endpoint, topic, owner, host, self._transport.curve)
        client = FeedClient(link, topic, ask=ask, reset=reset, apply=apply)
        self.spawn(client.run(), f"feed of {owner}")
        return client

    def ready(self) -> None:
        """Notify the service manager that this process does its work now (sd_notify(3))."""
        has_manager = notify("READY=1\nSTATUS=")
        # A service manager shows the operator that its service is ready. Without one, the log has to.
        (log.debug if has_manager else log.info)("ready", pid=os.getpid())

    def _pong(self, _: Ping) -> Pong:
        return Pong(
            service=self.service,
            version=__version__,
            pid=os.getpid(),
            uptime_s=self.clock.now() - self._started,
            notes=self.notes() + self.left_out(),
        )

    def reload(self) -> None:
        """Read the configuration again, adopt what can change while the process runs, and log what needs a restart.

        VMs are not read here. They belong to the store, and `jitsu apply` changes them.
        """
        try:
            read = load_service(self.service, sys.argv[1:], os.environ)
        except SettingsFault as fault:
            log.error("cannot use the new configuration", service=self.service, reason=str(fault))
            return
        configure_logging(read.log, self.service)
        adopted, waiting = self.settings.with_live(read, self.service)
        if adopted != self.settings:
            self.settings = adopted
            self.on_reload(adopted)
        self.on_hangup()
        if waiting:
            log.warning(
                "configuration read again; a restart is needed for", service=self.service, keys=", ".join(waiting)
            )
        else:
            log.info("read again", service=self.service)

    async def beat(self) -> None:
        """Report once in BEAT_S that the event loop turns: to /healthz, and to the service manager's watchdog."""
        is_watched = "WATCHDOG_USEC" in os.environ
        while True:
            self.metrics.beat()
            logs.flush()
            if is_watched:
                notify("WATCHDOG=1")
            await asyncio.sleep(BEAT_S)

    def close(self) -> None:
        """Close the sockets that the tasks have left open."""
        self._transport.context.destroy(linger=0)


def run(service: str, start: Callable[[World], Awaitable[None]]) -> None:
    """Run a service until it is stopped; never returns. `start` opens the sockets, spawns the tasks and returns."""
    run_with(configured(service), service, start)


def run_with(settings: Settings, service: str, start: Callable[[World], Awaitable[None]]) -> None:
    """Run a service whose settings are known; never returns."""
    sys.exit(run_loop(_serve(service, settings, start)))


def configured(service: str) -> Settings:
    """Return a service's settings after setting up the log as they ask; exits with status 2 if they are wrong."""
    wait_to_begin()
    try:
        settings = load_service(service, sys.argv[1:], os.environ)
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    configure_logging(settings.log, service)
    return settings


def collect_rarely() -> None:
    """Have Python search for cycles of dead objects less often than by default (COLLECT_AFTER)."""
    gc.set_threshold(*COLLECT_AFTER)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, the event loop of all our processes; the cold path measured faster on it."""
    collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _serve(service: str, settings: Settings, start: Callable[[World], Awaitable[None]]) -> int:
    raise_limit()
    status = EXIT_FAILED
    world: RealWorld | None = None
    stop_metrics: Callable[[], None] | None = None
    try:
        async with EndableGroup() as group:
            stop = asyncio.Event()
            on_stop_signals(stop.set)
            world = RealWorld(service, settings, group)
            on_hangup(asyncio.get_running_loop().add_signal_handler, world.reload)
            if settings.metrics(service):
                stop_metrics = world.metrics.serve(settings.metrics(service))
            world.spawn(world.beat(), "beat")
            starting = group.create_task(_starting(start, world), name="start")
            await stop.wait()
            notify("STOPPING=1")
            starting.cancel()
            if world.on_stop is not None:
                await world.on_stop()
            group.end()
        status = 0
    except* Exception as failures:
        status = exit_status(service, failures)
    finally:
        if stop_metrics is not None:
            stop_metrics()
        if world is not None:
            world.close()
    return status


async def _starting(start: Callable[[World], Awaitable[None]], world: World) -> None:
    await start(world)


def exit_status(service: str, failures: ExceptionGroup[Exception]) -> int:
    """Report every failure that ended a process, and return the exit status that follows from them.

    A SetupFault is printed for the operator. Anything else is logged with its traceback, and outweighs the faults.
    """
    status = EXIT_FAILED
    faults, others = failures.split(SetupFault)
    for fault in _flat(faults):
        print(f"jitsu-{service}: {fault}", file=sys.stderr)
        status = fault.status
    for failure in _flat(others):
        log.error("task failed", service=service, exc_info=failure)
        status = EXIT_FAILED
    return status


def _flat(group: ExceptionGroup[E] | None) -> list[E]:
    """Return the exceptions of a group and of the groups within it."""
    found: list[E] = []
    for each in () if group is None else group.exceptions:
        if isinstance(each, ExceptionGroup):
            found += _flat(each)
        else:
            found.append(each)
    return found
