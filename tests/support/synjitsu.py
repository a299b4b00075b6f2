"""What tests of Synjitsu's rules have in common."""

from __future__ import annotations

from jitsu_protocol.rates import Buckets, Networks
from jitsu_synjitsu.rules.arming import WakeLimit


def wake_limit(*allowed: str, rate: float = 1.0, burst: float = 5.0, of_all: float = 0.0) -> WakeLimit:
    """Return who may wake VMs: everybody, at that rate."""
    return WakeLimit(Networks(allowed), Buckets(rate, burst), Buckets(of_all, of_all))
