"""What an operator sees of Synjitsu: the notes of `jitsu status`, and metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_runtime.metrics import Metrics
    from jitsu_synjitsu.wires.lan import Lan
    from jitsu_synjitsu.wires.server import SynjitsuServer

MAX_ADDRESSES_SHOWN = 6
MAX_NAMES_SHOWN = 20


class SynjitsuStatus:
    """A view of the server; it changes nothing."""

    def __init__(self, server: SynjitsuServer, lan: Lan) -> None:
        self._server = server
        self._lan = lan

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        bridges = self._server.bridges
        if not bridges:
            why = "synjitsu.bridges is none" if bridges.is_off else "no VM is on a bridge"
            return [f"{why}: boots are hidden by delay only, and open connections do not keep VMs up"]
        notes = [f"the bridge {bridge.name} is not there" for bridge in bridges if bridge.wire is None]
        notes += self._lan.warnings()
        notes += [note for bridge in bridges for note in bridge.notes()]
        notes += self._server.watcher.notes()
        for reason, names in sorted(self._server.watcher.unwatched().items()):
            shown = f"{', '.join(names[:MAX_NAMES_SHOWN])}{', ...' if len(names) > MAX_NAMES_SHOWN else ''}"
            notes.append(f"open connections do not keep {len(names)} VMs up ({shown}): {reason}")
        held = self._addresses()
        more = f" and {len(held) - MAX_ADDRESSES_SHOWN} more" if len(held) > MAX_ADDRESSES_SHOWN else ""
        notes.append(f"holds {', '.join(held[:MAX_ADDRESSES_SHOWN]) or 'no address'}{more}")
        replayed = sum(bridge.addresses.counts.replayed for bridge in bridges)
        notes.append(f"{len(self._server.kept)} packets kept, {replayed} replayed")
        notes.append(f"{self._connected():.0f} connections open to VMs that run")
        return notes

    def publish(self, metrics: Metrics) -> None:
        """Offer all metrics."""
        kept = self._server.kept
        metrics.gauge("armed_addresses", "Addresses held.", lambda: float(len(self._addresses())))
        metrics.gauge("kept_packets", "Packets kept for booting VMs.", lambda: float(len(kept)))
        metrics.counted(
            "displaced_packets",
            "Kept packets that were dropped to make room for others.",
            lambda: float(kept.displaced),
        )
        metrics.counted_by("sent_frames", "Frames sent.", ("what",), self._sent)
        metrics.counted_by("unsent_frames", "Frames that could not be sent on a bridge.", ("error",), self._unsent)
        metrics.counted(
            "unwoken_packets", "Packets to VMs that are off, from clients that may not wake them.", self._unwoken
        )
        metrics.counted("floods", "Times that a VM was sent more packets than Synjitsu can look at.", self._floods)
        metrics.gauge("connections", "TCP connections open to VMs.", self._connected)
        metrics.counted(
            "expired_connections",
            "Connections that count as closed, because they were silent for max_idle_connection.",
            self._expired,
        )

    def _addresses(self) -> list[str]:
        return sorted(address for bridge in self._server.bridges for address in bridge.addresses.addresses())

    def _sent(self) -> dict[tuple[str, ...], float]:
        sent = sum((bridge.counts.sent for bridge in self._server.bridges), Counter[str]())
        return {(what,): float(count) for what, count in sent.items()}

    def _unsent(self) -> dict[tuple[str, ...], float]:
        unsent = sum((bridge.unsent() for bridge in self._server.bridges), Counter[str]())
        return {(error,): float(count) for error, count in unsent.items()}

    def _unwoken(self) -> float:
        return float(sum(bridge.addresses.counts.unwoken for bridge in self._server.bridges))

    def _floods(self) -> float:
        bridges = self._server.bridges
        return float(sum(bridge.addresses.floods.total + bridge.activity.attention.floods for bridge in bridges))

    def _connected(self) -> float:
        return float(sum(bridge.activity.totals.connections for bridge in self._server.bridges))

    def _expired(self) -> float:
        return float(sum(bridge.activity.totals.expired for bridge in self._server.bridges))
