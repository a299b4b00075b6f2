"""The states of a VM, and the one table of which may follow which.

    off ──► starting ──► booting ──► ready ◄──► draining ──► stopping ──► off | suspended
             │             │           │
             └──► failed ◄─┘           └──► (stopped by somebody else) off | suspended | paused

`starting` lasts from the summon until the hypervisor has accepted the start, and `booting` from then until the masking
rule is met. While a VM is `draining`, a query still keeps it running. `suspended` (to disk) and `paused` (in memory)
start like `off`, with other calls to the hypervisor. A VM is `unknown` before the hypervisor has been asked, when
its answer makes no sense, and when it has said for a while that it does not know.
"""

from __future__ import annotations

from enum import StrEnum


class VmState(StrEnum):
    """What a VM is doing, as far as vmd knows."""

    OFF = "off"
    STARTING = "starting"
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    FAILED = "failed"
    UNKNOWN = "unknown"


_S = VmState

AT_REST = frozenset({_S.OFF, _S.SUSPENDED, _S.PAUSED, _S.FAILED})
"""The states in which a summon starts the VM."""

FOLLOWS: dict[VmState, frozenset[VmState]] = {
    _S.UNKNOWN: frozenset({_S.OFF, _S.SUSPENDED, _S.PAUSED, _S.FAILED, _S.BOOTING}),
    _S.OFF: frozenset({_S.STARTING, _S.BOOTING, _S.SUSPENDED, _S.PAUSED}),
    _S.SUSPENDED: frozenset({_S.STARTING, _S.BOOTING, _S.OFF, _S.PAUSED}),
    _S.PAUSED: frozenset({_S.STARTING, _S.BOOTING, _S.OFF, _S.SUSPENDED}),
    _S.FAILED: frozenset({_S.STARTING, _S.BOOTING, _S.OFF, _S.SUSPENDED, _S.PAUSED}),
    _S.STARTING: frozenset({_S.BOOTING, _S.FAILED, _S.STOPPING}),
    _S.BOOTING: frozenset({_S.READY, _S.FAILED, _S.STOPPING}),
    _S.READY: frozenset({_S.DRAINING, _S.STOPPING, _S.OFF, _S.SUSPENDED, _S.PAUSED, _S.FAILED, _S.UNKNOWN}),
    _S.DRAINING: frozenset({_S.READY, _S.STOPPING, _S.OFF, _S.SUSPENDED, _S.PAUSED, _S.FAILED, _S.UNKNOWN}),
    _S.STOPPING: frozenset({_S.OFF, _S.SUSPENDED, _S.PAUSED, _S.FAILED, _S.BOOTING}),
}


def may_follow(old: VmState, new: VmState) -> bool:
    """Return whether a VM may go from `old` to `new`."""
    return new in FOLLOWS[old]
