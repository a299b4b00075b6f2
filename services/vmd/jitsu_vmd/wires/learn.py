"""What the store knows of one VM, for a vmd that has just started and has not read of all of them yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.inventory import Inventory
from jitsu_protocol.messages import Leaves, List
from jitsu_protocol.vm import STATS_ROOT, VM_ROOT

if TYPE_CHECKING:
    from jitsu_protocol.bus import RpcClient
    from jitsu_protocol.inventory import VmChanged

LIMIT_S = 5.0


async def learn(store: RpcClient, vm: str) -> tuple[list[VmChanged], dict[str, str]]:
    """Return the VM with this UUID as one that came, if it is configured, and its statistics (path -> value)."""
    about_vm = List(prefix=f"{VM_ROOT}/{vm}", topic="vm")
    about_starts = List(prefix=f"{STATS_ROOT}/{vm}", topic="stats")
    configured, counted = await asyncio.gather(
        store.call(about_vm, Leaves, LIMIT_S), store.call(about_starts, Leaves, LIMIT_S)
    )
    return Inventory().reset(configured.leaves), counted.leaves
