"""The clients that use the VMs of one bridge. They are only shown by `jitsu why`; nothing depends on them.

Of packets it is one client of each VM since the last report, because a VM is not looked at for a while after a packet.
Of connections, the ports and clients are reported again when they change, and every REPEAT_S, because a reaper that
was started again knows of none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Connected, Peer
from jitsu_synjitsu.rules.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.askers import Askers
    from jitsu_protocol.model.privacy import Privacy
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.running import Running

MAX_VMS = 200
"""In a report, of each bridge."""
MAX_LOOKED_AT = 256
"""Connections of one VM, the latest: to look at 4,096 would take some milliseconds."""
MAX_PEERS = 5
REPEAT_S = 30.0
_NAMES = {Kind.TCP: "tcp", Kind.UDP: "udp", Kind.ECHO: "ping", Kind.FRAGMENT: "a fragment"}


def described(seen: Seen) -> str:
    """Return where a packet goes: `tcp/22`, `ping`."""
    name = _NAMES.get(seen.kind, "another protocol")
    return f"{name}/{seen.target_port}" if seen.kind in (Kind.TCP, Kind.UDP) else name


@dataclass
class Clients:
    """Those of one bridge."""

    _packets: dict[str, tuple[Seen, float]] = field(default_factory=dict)
    """VM -> the last packet that counted as use."""
    _changed: dict[str, None] = field(default_factory=dict)
    """VMs whose connections the reaper does not know."""
    _repeat_at: float = 0.0

    def packet(self, vm: str, seen: Seen, now: float) -> None:
        """Note a packet that counts as use."""
        self._packets[vm] = seen, now

    def connections_changed(self, vm: str) -> None:
        """Note that other connections to a VM are open now."""
        self._changed[vm] = None

    def forget(self, vm: str) -> None:
        """Forget a VM that runs no longer."""
        self._packets.pop(vm, None)
        self._changed.pop(vm, None)

    def give(self, askers: Askers) -> None:
        """Hand over the clients of packets, as many as there is room for; the others are forgotten."""
        packets, self._packets = self._packets, {}
        for vm, (seen, at) in packets.items():
            if not askers.samples():
                return
            askers.noticed(vm, "packet", described(seen), seen.sender, at)

    def connected(self, vms: Mapping[str, Running], privacy: Privacy, now: float) -> list[Connected]:
        """Return the connections of VMs of which they have changed, or that were not reported for a while."""
        if now >= self._repeat_at:
            self._repeat_at = now + REPEAT_S
            self._changed |= dict.fromkeys(vm for vm, running in vms.items() if running.is_connected())
        found = list(islice(self._changed, MAX_VMS))
        for vm in found:
            del self._changed[vm]
        return [_connected(vms[vm], privacy) for vm in found if vm in vms]


def _connected(running: Running, privacy: Privacy) -> Connected:
    latest = islice(reversed(running.connections), MAX_LOOKED_AT)
    counts = Counter((privacy.recorded(client), f"tcp/{port}") for client, _, _, port in latest)
    peers = [Peer(client, about, count) for (client, about), count in counts.most_common(MAX_PEERS)]
    return Connected(running.vm, len(running.connections), running.maybe_more, peers)
