"""The metrics of a replica: README.md lists them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jitsu_dns.rules.forward import ForwardCounts
from jitsu_dns.rules.message import TYPE_NAMES, Rcode

if TYPE_CHECKING:
    from jitsu_dns.rules.front import Front
    from jitsu_dns.wires.sockets import Sockets
    from jitsu_runtime.metrics import Metrics


class ReplicaMetrics:
    """Publishes what the rules and the sockets count."""

    def __init__(self, metrics: Metrics, front: Front, sockets: Sockets) -> None:
        self._metrics, self._front, self._sockets = metrics, front, sockets
        self.waits = metrics.histogram("cold_wait_seconds", "How long cold queries waited for their answer.")
        batches = metrics.histogram(
            "warm_batch_seconds", "From reading a batch of datagrams to sending the answers that were ready."
        )
        sockets.time_batches(batches.observe)
        self._publish_queries()
        self._publish_sockets()
        self._publish_forwarder()

    def _publish_queries(self) -> None:
        metrics, front = self._metrics, self._front
        counts = front.responder.counts
        metrics.counted_by(
            "queries", "Queries that were answered.", ("type", "rcode", "path"), lambda: _labelled(counts.answers)
        )
        metrics.counted("queries_malformed", "Packets that are not DNS queries.", lambda: float(counts.malformed))
        metrics.counted("queries_late", "Waiting queries whose max_wait was over.", lambda: float(counts.late))
        metrics.counted("queries_overflow", "Queries refused because too many wait.", lambda: float(counts.overflow))
        metrics.counted(
            "limited_responses",
            "Responses dropped or truncated by dns.response_rate.",
            lambda: float(front.responder.limit.limited),
        )
        metrics.gauge("waiting", "Queries that are waiting now.", lambda: float(len(front.cold.pending)))
        metrics.gauge("names", "Names held.", lambda: float(len(front.contents.table)))

    def _publish_forwarder(self) -> None:
        metrics, forwarder = self._metrics, self._front.outside.forwarder
        counts = ForwardCounts() if forwarder is None else forwarder.counts
        metrics.counted("forwarded_asked", "Questions sent to other servers.", lambda: float(counts.asked))
        metrics.counted("forwarded_hits", "Forwarded questions answered from memory.", lambda: float(counts.hits))
        metrics.counted(
            "forwarded_failures", "Forwarded questions that no server answered.", lambda: float(counts.failures)
        )

    def _publish_sockets(self) -> None:
        metrics, sockets = self._metrics, self._sockets
        metrics.counted_by(
            "dropped_responses",
            "Responses that the kernel refused to send.",
            ("error",),
            lambda: {(error,): float(count) for error, count in sockets.unsent().items()},
        )
        metrics.counted(
            "queries_dropped",
            "Queries that were dropped because too many arrived at once.",
            lambda: float(sockets.dropped_queries()),
        )
        metrics.gauge("tcp_connections", "TCP connections open.", lambda: float(sockets.connections()))


def _labelled(answers: Counter[tuple[int, int, str]]) -> dict[tuple[str, ...], float]:
    """Return how many queries were answered, by type, rcode and path; types that are not in use here are one."""
    found: Counter[tuple[str, ...]] = Counter()
    for (qtype, rcode, path), count in list(answers.items()):
        found[TYPE_NAMES.get(qtype, "other"), Rcode(rcode).name, path] += count
    return dict(found)
