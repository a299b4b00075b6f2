"""The scaffolding of a service's process: settings, logging, signals, readiness, one TaskGroup that owns all tasks.

Exit status: 0 stopped by a signal, 1 failed while running, 2 cannot run as configured, 3 the store is damaged, 4 the
store cannot be written to. After 2 and above a restart does not help.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import uvloop

from jitsu_protocol import __version__
from jitsu_protocol.messages import Ping, Pong
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime import logs
from jitsu_runtime.bus.curve import Curve
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import feed_client, feed_server, rpc_client, rpc_server
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.descriptors import raise_limit
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.service_manager import notify, on_stop_signals
from jitsu_runtime.settings.load import Settings, SettingsFault, load_service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import FeedItem, Request
    from jitsu_runtime.bus.feed_client import FeedClient
    from jitsu_runtime.bus.feed_server import FeedServer
    from jitsu_runtime.bus.rpc_client import RpcClient
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Caller, Handler, Snapshot, World

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_SETUP = 2
BEAT_S = 1.0
COLLECT_AFTER = (50_000, 20, 20)
"""New objects before Python looks for cycles among them, and how often it looks among older ones. With 10,000 VMs a
process makes a million objects that stay; with Python's own 700 a quarter of the time went into looking at them."""

log = structlog.get_logger("process")


class RealWorld:
    """The world of a process: sockets, this machine's clock, and the group that owns its tasks. See world.py."""

    def __init__(self, service: str, settings: Settings, group: asyncio.TaskGroup) -> None:
        self.service = service
        self.settings = settings
        self.group = group
        self.host = settings.hypervisor.host if service == "vmd" else ""
        self.metrics = Metrics(service)
        self.notes: Callable[[], list[str]] = list
        self.left_out: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self.on_reload: Callable[[Settings], None] = lambda _: None
        self.on_hangup: Callable[[], None] = lambda: None
        self.clock: Clock = SYSTEM_CLOCK
        self._context = Context()
        keys = settings.bus.keys_directory
        self._curve = None if keys is None else Curve(self._context, keys, service, self.spawn, self.metrics.dropped)
        self._started = self.clock.now()

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Run a coroutine as part of this process; if it fails, the process ends.

        Once the process is ending it is not run: a timer may still ring then.
        """
        try:
            return self.group.create_task(work, name=name or None)
        except RuntimeError:  # of a group that is over, or whose tasks are being cancelled
            work.close()
            return asyncio.get_running_loop().create_task(asyncio.sleep(0))

    def serve(self, handlers: Mapping[type[Request], Handler]) -> None:
        """Bind this service's rpc."""
        endpoint = self.settings.bus.endpoint(self.service, "rpc", self.host)
        every: dict[type[Request], Handler] = {Ping: self._pong, **handlers}
        self.spawn(rpc_server(self._context, endpoint, every, self.metrics.dropped, self._curve).run(), "rpc")

    def publish(self, *topics: str) -> FeedServer:
        """Bind this service's feed."""
        endpoint = self.settings.bus.endpoint(self.service, "feed", self.host)
        server = feed_server(self._context, endpoint, topics, self._curve, self.metrics.dropped)
        self.spawn(server.run(), "feed")
        return server

    def client(self, owner: str, host: str = "") -> RpcClient:
        """Connect to another service's rpc."""
        return self.connect(self.settings.bus.endpoint(owner, "rpc", host), owner, host)

    def vmds(self) -> dict[str, Caller]:
        """Connect to every vmd: host -> client."""
        return {host: self.client("vmd", host) for host in self.settings.bus.vmds}

    def connect(self, endpoint: str, owner: str, host: str = "") -> RpcClient:
        """Connect to an rpc by its endpoint."""
        client = rpc_client(self._context, endpoint, owner, self._curve, host)
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
        endpoint: str = "",
        host: str = "",
    ) -> FeedClient:
        """Connect to another service's feed."""
        endpoint = endpoint or self.settings.bus.endpoint(owner, "feed", host)
        client = feed_client(
            self._context,
            endpoint,
            topic,
            ask=ask,
            reset=reset,
            apply=apply,
            curve=self._curve,
            owner=owner,
            host=host,
        )
        self.spawn(client.run(), f"feed of {owner}")
        return client

    def ready(self) -> None:
        """Tell the service manager that this process does its work now."""
        told = notify("READY=1\nSTATUS=")
        (log.debug if told else log.info)("ready", pid=os.getpid())  # who supervises says it to the operator

    def _pong(self, _: Ping) -> Pong:
        return Pong(
            service=self.service,
            version=__version__,
            pid=os.getpid(),
            uptime_s=self.clock.now() - self._started,
            notes=self.notes() + self.left_out(),
        )

    def reload(self) -> None:
        """Read the configuration again: take what can change in a process that runs, and say what cannot.

        VMs are not read here: they are the store's, and `jitsu apply` changes them.
        """
        try:
            read = load_service(self.service, sys.argv[1:], os.environ)
        except SettingsFault as fault:
            log.error("cannot use the new configuration", service=self.service, reason=str(fault))
            return
        configure_logging(read.log, self.service)
        taken, waiting = self.settings.with_live(read, self.service)
        if taken != self.settings:
            self.settings = taken
            self.on_reload(taken)
        self.on_hangup()
        if waiting:
            log.warning(
                "configuration read again; a restart is needed for", service=self.service, keys=", ".join(waiting)
            )
        else:
            log.info("read again", service=self.service)

    async def beat(self) -> None:
        """Keep /healthz and the service manager's watchdog content for as long as the event loop turns."""
        is_watched = "WATCHDOG_USEC" in os.environ
        while True:
            self.metrics.beat()
            logs.flush()
            if is_watched:
                notify("WATCHDOG=1")
            await asyncio.sleep(BEAT_S)

    def close(self) -> None:
        """Close what the tasks have left open."""
        self._context.destroy(linger=0)


def run(service: str, start: Callable[[World], Awaitable[None]]) -> None:
    """Run a service: `start` opens its wires, spawns its tasks and returns; never returns itself."""
    run_with(configured(service), service, start)


def run_with(settings: Settings, service: str, start: Callable[[World], Awaitable[None]]) -> None:
    """Run a service whose settings are known; never returns."""
    sys.exit(run_loop(_serve(service, settings, start)))


def configured(service: str) -> Settings:
    """Return a service's settings, and log as they say; exits if they are wrong."""
    try:
        settings = load_service(service, sys.argv[1:], os.environ)
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    configure_logging(settings.log, service)
    return settings


def collect_rarely() -> None:
    """Look for cycles of dead objects less often than Python does by itself."""
    gc.set_threshold(*COLLECT_AFTER)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop that all processes use; uvloop measured faster on the cold path."""
    collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _serve(service: str, settings: Settings, start: Callable[[World], Awaitable[None]]) -> int:
    raise_limit()
    status = EXIT_FAILED
    process: RealWorld | None = None
    unserve: Callable[[], None] | None = None
    try:
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            on_stop_signals(stop.set)
            process = RealWorld(service, settings, group)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, process.reload)
            if settings.metrics(service):
                unserve = process.metrics.serve(settings.metrics(service))
            process.spawn(process.beat(), "beat")
            starting = group.create_task(_starting(start, process), name="start")
            await stop.wait()
            notify("STOPPING=1")
            starting.cancel()
            if process.on_stop is not None:
                await process.on_stop()
            raise _Stopped
    except* _Stopped:
        status = 0
    except* SetupFault as faults:
        for fault in _leaves(faults):
            print(f"jitsu-{service}: {fault}", file=sys.stderr)
            status = getattr(fault, "status", EXIT_SETUP)
    except* Exception as failures:
        for failure in _leaves(failures):
            log.error("task failed", service=service, exc_info=failure)
        status = EXIT_FAILED
    finally:
        if unserve is not None:
            unserve()
        if process is not None:
            process.close()
    return status


async def _starting(start: Callable[[World], Awaitable[None]], process: World) -> None:
    await start(process)


class _Stopped(Exception):
    """A signal asked this process to stop."""


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for each in group.exceptions:
        leaves += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return leaves
