"""Connect to a guest's TCP port until it accepts."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from jitsu_vmd.wires.neighbours import forget_unanswered

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from jitsu_protocol.vm import VM

PAUSE_SHARE = 0.05
"""The pause between attempts is this share of the time waited so far: a boot seems at most 5% longer than it is."""
MIN_PAUSE_S = 0.005
MAX_PAUSE_S = 0.1
"""A hundred guests that boot for a minute cost a thousand attempts a second at most."""
CONNECT_LIMIT_S = 1.0  # a SYN that met no stack is sent again after 1 s (RFC 6298); a new attempt is no later


RESOLVE_S = 0.05
"""Who has an address is known in a millisecond on a bridge; after that long it is asked again."""


async def wait_for_port(vm: VM) -> None:
    """Return when one of the VM's addresses accepts a connection to `wait_for_port`; try until cancelled."""
    begun = monotonic()
    while True:
        for address in vm.addresses:
            if await _accepts(address, vm.wait_for_port or 0):
                return
        await asyncio.sleep(min(max(MIN_PAUSE_S, PAUSE_SHARE * (monotonic() - begun)), MAX_PAUSE_S))


async def _accepts(address: IPv4Address | IPv6Address, port: int) -> bool:
    connecting = asyncio.ensure_future(asyncio.open_connection(str(address), port))
    try:
        await asyncio.wait({connecting}, timeout=RESOLVE_S)
        if not connecting.done() and not forget_unanswered(address):
            await asyncio.wait({connecting}, timeout=CONNECT_LIMIT_S - RESOLVE_S)
        if not connecting.done() or connecting.exception() is not None:
            return False
        connecting.result()[1].close()
        return True
    finally:
        connecting.cancel()
