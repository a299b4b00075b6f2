"""The metrics of a process, and the HTTP server for /metrics and /healthz.

The server runs on threads of its own, so that it still answers when the event loop is stuck: /healthz returns 200 while
the loop turns, and 503 when it has not turned for STUCK_S.

Each connection has a thread, so that a slow client delays nobody else. A connection may last REQUEST_LIMIT_S in all,
however its client spreads its bytes. There are at most MAX_CONNECTIONS; when one more comes, the oldest is cut.
"""

from __future__ import annotations

import platform
import socket
import threading
from contextlib import suppress
from socketserver import ThreadingMixIn
from time import sleep
from typing import TYPE_CHECKING, Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from jitsu_protocol import __version__
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client.core import Metric

    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.values import ListenAddress

STUCK_S = 5.0
REQUEST_LIMIT_S = 5.0
MAX_CONNECTIONS = 16
POLL_S = 0.1
"""How often the server looks for connections whose time is over."""
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one process; names begin with `jitsu_<service>_`."""

    def __init__(self, service: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.registry = CollectorRegistry()
        self._prefix = f"jitsu_{service}_"
        self._clock = clock
        self._turned_at = clock.now()
        self._dropped = self.counter("dropped_messages", "Bus messages that were dropped.", ["reason"])

    def counter(self, name: str, about: str, labels: Iterable[str] = ()) -> Counter:
        """Return a new counter."""
        return Counter(self._prefix + name, about, labels, registry=self.registry)

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> Gauge:
        """Return a new gauge whose value `read` returns whenever the metrics are scraped."""
        gauge = Gauge(self._prefix + name, about, registry=self.registry)
        gauge.set_function(read)
        return gauge

    def counted(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Expose a count that the process keeps itself, because its path is too hot for a counter."""
        self.registry.register(_Counted(self._prefix + name, about, read))

    def counted_by(
        self, name: str, about: str, labels: Sequence[str], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        """Expose counts that the process keeps itself; `read` maps the values of the labels to each count."""
        self.registry.register(_CountedBy(self._prefix + name, about, labels, read))

    def histogram(self, name: str, about: str) -> Histogram:
        """Return a new histogram of durations in seconds."""
        return Histogram(self._prefix + name, about, registry=self.registry, buckets=BUCKETS_S)

    def gathered(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Expose whole families, which `read` makes at each scrape, on the thread of the scrape."""
        self.registry.register(_Gathered(read))

    def dropped(self, reason: str) -> None:
        """Count a message of the bus that was dropped or refused."""
        self._dropped.labels(reason).inc()

    def beat(self) -> None:
        """Note that the event loop turns."""
        self._turned_at = self._clock.now()

    def is_stuck(self) -> bool:
        """Return whether the event loop has not turned for STUCK_S."""
        return self._clock.now() - self._turned_at > STUCK_S

    def serve(self, listen: ListenAddress) -> Callable[[], None]:
        """Serve on an address and return a function that stops it; raises SetupFault if the port cannot be bound."""
        self._describe_process()
        exposition: Any = make_wsgi_app(self.registry)

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/healthz":
                stuck = self.is_stuck()
                start("503 Service Unavailable" if stuck else "200 OK", [("Content-Type", "text/plain")])
                return [b"stuck\n" if stuck else b"ok\n"]
            if environ["PATH_INFO"] == "/metrics":
                answer: Iterable[bytes] = exposition(environ, start)
                return answer
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics and /healthz are here\n"]

        try:
            server = make_server(listen.host, listen.port, app, server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            raise SetupFault(f"cannot serve metrics on {listen}: {error.strerror}") from None
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()

        return stop

    def _describe_process(self) -> None:
        """Expose what Prometheus knows of every process, and which build this is: only a scrape costs anything."""
        ProcessCollector(registry=self.registry)
        build = ("service", self._prefix.split("_")[1]), ("version", __version__), ("python", platform.python_version())
        family = GaugeMetricFamily(
            "jitsu_build_info", "1; the labels say which build runs.", labels=[label for label, _ in build]
        )
        family.add_metric([value for _, value in build], 1.0)
        self.gathered(lambda: (family,))


def gauge_of(name: str, about: str, labels: Sequence[str]) -> GaugeMetricFamily:
    """Return an empty family of gauges for `gathered`."""
    return GaugeMetricFamily(name, about, labels=labels)


def counter_of(name: str, about: str, labels: Sequence[str]) -> CounterMetricFamily:
    """Return an empty family of counters for `gathered`."""
    return CounterMetricFamily(name, about, labels=labels)


def histogram_of(name: str, about: str, labels: Sequence[str]) -> HistogramMetricFamily:
    """Return an empty family of histograms for `gathered`."""
    return HistogramMetricFamily(name, about, labels=labels)


def exemplar_of(summon: str, seconds: float, wall: float) -> Exemplar:
    """Return the exemplar of a bucket: the id of a summon, how long it took, and when it ended in Unix time."""
    return Exemplar({"summon": summon}, seconds, wall)


class _Gathered(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return the families as they are now."""
        return self._read()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what it would describe is not known yet."""
        return ()


class _Counted(Collector):
    def __init__(self, name: str, about: str, read: Callable[[], float]) -> None:
        self._name, self._about, self._read = name, about, read

    def collect(self) -> Iterable[Metric]:
        """Return the count as it is now."""
        yield CounterMetricFamily(self._name, self._about, value=self._read())


class _CountedBy(Collector):
    def __init__(
        self, name: str, about: str, labels: Sequence[str], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self._name, self._about, self._labels, self._read = name, about, labels, read

    def collect(self) -> Iterable[Metric]:
        """Return the counts as they are now."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, count in self._read().items():
            family.add_metric(values, count)
        yield family


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._lock = threading.Lock()
        self._began: dict[socket.socket, float] = {}
        """Open connections, the oldest first."""
        super().__init__(*arguments, **more)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Without a descriptor for it, wait a little, because the server tries again at once."""
        try:
            return super().get_request()
        except OSError:
            sleep(POLL_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread of its own."""
        with self._lock:
            while len(self._began) >= MAX_CONNECTIONS:
                self._cut(next(iter(self._began)))
            self._began[request] = SYSTEM_CLOCK.now()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Cut connections whose time is over; the server calls this every POLL_S, and after each connection."""
        until = SYSTEM_CLOCK.now() - REQUEST_LIMIT_S
        with self._lock:
            for request in [each for each, began in self._began.items() if began < until]:
                self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: it is not worth a line that a client went away or was cut."""

    def _cut(self, request: socket.socket) -> None:
        """End a connection; its thread notices at its next read or write, and closes it."""
        del self._began[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Quiet(WSGIRequestHandler):
    timeout: ClassVar[float | None] = REQUEST_LIMIT_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape comes every few seconds."""
