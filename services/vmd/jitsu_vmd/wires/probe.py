"""Connect to a guest's TCP port until it accepts."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.vm import VM

PAUSE_SHARE = 0.05
"""The pause between attempts is this share of the time waited so far: a boot seems at most 5% longer than it is."""
MIN_PAUSE_S = 0.005
MAX_PAUSE_S = 0.1
"""A hundred guests that boot for a minute cost a thousand attempts a second at most."""
CONNECT_LIMIT_S = 1.0  # a SYN that met no stack is sent again after 1 s (RFC 6298); a new attempt is no later


async def wait_for_port(vm: VM) -> None:
    """Return when one of the VM's addresses accepts a connection to `wait_for_port`; try until cancelled."""
    begun = monotonic()
    while True:
        for address in vm.addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    _, writer = await asyncio.open_connection(str(address), vm.wait_for_port)
                writer.close()
                return
        await asyncio.sleep(min(max(MIN_PAUSE_S, PAUSE_SHARE * (monotonic() - begun)), MAX_PAUSE_S))
