"""Which UDP datagrams to a VM answer what the VM has sent, and are no use of it.

A flow is two addresses with their ports. Whoever sent its first datagram has begun it. Synjitsu sees the datagrams of a
VM in both directions, so it sees the first one too, as long as it looks:

    event                                               the flow then counts as
    datagram to the VM, on a flow that is not known     its client's: this datagram is use, and so are all that follow
    datagram of the VM, all seen for FLOW_S before      the VM's: what comes back is no use
    datagram of the VM, but some were not seen          its client's: a request may have been missed
    nothing in its direction for FLOW_S                 not known

When in doubt, a datagram counts as use (G3). Some are not seen while a VM has more than MAX_DATAGRAMS in a quarter of a
second, because a busy VM must not cost a look at each packet; when frames were lost; and before Synjitsu was started.
Flows that are known to be the VM's stay so while it is busy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FLOW_S = 120.0
"""A flow that is silent for this long is over, as for Linux (nf_conntrack_udp_timeout_stream)."""
MAX_FLOWS = 4096
"""Of one VM and each kind."""
MAX_DATAGRAMS = 16
"""Of one VM, between two calls of `look`."""

Flow = tuple[bytes, int, bytes, int]
"""The other side's address and port, the VM's."""


@dataclass
class Datagrams:
    """The flows of one VM."""

    seen_since: float = float("-inf")
    """From then on all of its datagrams were seen."""
    blind_until: float = 0.0
    """Until then they are not looked at."""
    own: dict[Flow, float] = field(default_factory=dict)
    """Flows that the VM has begun -> when it sent on them last; in that order."""
    changed: bool = False
    """`own` has other flows than before; set back by who saves them."""
    _others: dict[Flow, float] = field(default_factory=dict, init=False)
    """Flows that others have begun, or may have -> when a datagram was seen last; in that order."""
    _count: int = field(default=0, init=False)
    _fragment: tuple[bytes, bytes] = field(default=(b"", b""), init=False)

    def sent(self, flow: Flow, now: float) -> None:
        """Look at a datagram of the VM."""
        self._count += 1
        if _is_known(self._others, flow, now):
            _note(self._others, flow, now)
        elif _is_known(self.own, flow, now) or now - self.seen_since >= FLOW_S:
            known, count = flow in self.own, len(self.own)
            if _note(self.own, flow, now):
                del self.own[next(iter(self.own))]  # what comes back on it will be use
            self.changed |= not known or len(self.own) != count
        else:
            self._others_have(flow, now)

    def is_reply(self, flow: Flow, now: float, fragment: bytes = b"") -> bool:
        """Look at a datagram to the VM, or its first fragment; say whether it answers one of the VM's."""
        self._count += 1
        if _is_known(self.own, flow, now):
            self._fragment = (flow[0], fragment)
            return True
        self._others_have(flow, now)
        return False

    def is_rest_of_reply(self, sender: bytes, fragment: bytes) -> bool:
        """Say whether a later fragment belongs to the last reply."""
        return bool(fragment) and self._fragment == (sender, fragment)

    def is_busy(self) -> bool:
        """Say whether there are too many to look at each."""
        return self._count > MAX_DATAGRAMS

    def rest(self, until: float) -> None:
        """Note that they are not looked at for a while."""
        self.blind_until = self.seen_since = until

    def resume(self, now: float) -> None:
        """Note that they are looked at again."""
        self.blind_until = self.seen_since = now

    def doubt(self, now: float) -> None:
        """Note that a packet to the VM was not understood: it may have begun a flow, with which the VM goes on."""
        self.seen_since = max(now, self.seen_since)

    def missed(self, now: float) -> None:
        """Note that some were not seen until now, and nobody knows since when."""
        self.doubt(now)
        self.changed |= bool(self.own)
        self.own.clear()

    def look(self) -> None:
        """Start a new count."""
        self._count = 0

    def _others_have(self, flow: Flow, now: float) -> None:
        self.changed |= self.own.pop(flow, None) is not None
        if _note(self._others, flow, now):
            del self._others[next(iter(self._others))]
            self.doubt(now)  # the VM may go on with that one


def _is_known(flows: dict[Flow, float], flow: Flow, now: float) -> bool:
    return now - flows.get(flow, float("-inf")) < FLOW_S


def _note(flows: dict[Flow, float], flow: Flow, now: float) -> bool:
    """Put a flow last, and drop those that are over; say whether there are too many."""
    flows.pop(flow, None)
    flows[flow] = now
    while len(flows) > 1 and now - flows[oldest := next(iter(flows))] >= FLOW_S:
        del flows[oldest]
    return len(flows) > MAX_FLOWS
