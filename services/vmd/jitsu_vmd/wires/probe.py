"""Connect to a guest's TCP port until it accepts.

What is lost on the way to a guest that boots would cost a second, in which Linux waits before it asks again who has the
address, or sends a SYN again (RFC 6298). So no attempt is waited for much longer than the boot has already taken.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_runtime.clock import sleep
from jitsu_vmd.wires.neighbours import forget_unanswered

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock

PAUSE_SHARE = 0.05
"""The pause between attempts is this share of the time waited so far: a boot seems at most 5% longer than it is."""
MIN_PAUSE_S = 0.005
MAX_PAUSE_S = 0.1
"""A hundred guests that boot for a minute cost a thousand attempts a second at most."""
MAX_PAUSE_WHILE_ASKED_S = 0.012
"""As long as a query may be waiting (max_wait): with an attempt it is less than the 20 ms that nobody notices."""
FIRST_ATTEMPT_S, ATTEMPT_SHARE, MAX_ATTEMPT_S = 0.01, 0.25, 1.0
"""An attempt on a bridge is answered within a millisecond, or was lost. But a guest may also be slow: an attempt may
take this share of the time waited so far.
"""


async def wait_for_port(vm: VM, clock: Clock) -> None:
    """Return when one of the VM's addresses accepts a connection to `wait_for_port`; try until cancelled."""
    begun = clock.now()
    while True:
        for address in vm.addresses:
            if await _accepts(address, vm.wait_for_port or 0, attempt_s(clock.now() - begun)):
                return
        await sleep(clock, pause_s(clock.now() - begun, vm.max_wait))


def pause_s(waited_s: float, max_wait_s: float) -> float:
    """Return how long to wait between two attempts after the guest has been waited for that long."""
    longest_s = MAX_PAUSE_WHILE_ASKED_S if waited_s < max_wait_s else MAX_PAUSE_S
    return min(max(MIN_PAUSE_S, PAUSE_SHARE * waited_s), longest_s)


def attempt_s(waited_s: float) -> float:
    """Return how long an attempt may take after the guest has been waited for that long."""
    return min(max(FIRST_ATTEMPT_S, ATTEMPT_SHARE * waited_s), MAX_ATTEMPT_S)


async def _accepts(address: IPv4Address | IPv6Address, port: int, limit_s: float) -> bool:
    connecting = asyncio.ensure_future(asyncio.open_connection(str(address), port))
    try:
        await asyncio.wait({connecting}, timeout=FIRST_ATTEMPT_S)
        if not connecting.done():
            # A guest that does not even say that it has the address is not slow: it is not there yet. What the kernel
            # would ask again after a second, the next attempt asks at once.
            if forget_unanswered(address):
                return False
            await asyncio.wait({connecting}, timeout=limit_s - FIRST_ATTEMPT_S)
        if not connecting.done():
            return False
        if connecting.exception() is not None:
            return False
        connecting.result()[1].close()
        return True
    finally:
        connecting.cancel()
