"""Follow the store's VMs and vmd's states: what vmd, dns and the reaper have in common as subscribers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import Committed, Leaves, List, ListVms, VmList, VmStateChanged
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.inventory import Inventory, accept
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.wire.codec import body_as
from jitsu_runtime.service_manager import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitsu_protocol.messages import FeedItem, VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Caller, Followed, Snapshot, World

SNAPSHOT_TIMEOUT_S = 5.0
PAGE_LEAVES = 2000
"""Of a snapshot: what follows the store does its other work between two pages."""
PATIENCE_S = 2.0
"""A wait that lasts longer is told to the operator."""

log = structlog.get_logger("follow")


async def follow_vms(
    process: World,
    store: Caller,
    changed: Callable[[Sequence[VmChanged]], None],
    returned: Callable[[], None] = lambda: None,
    serial: Callable[[int], None] = lambda _: None,
    check: Callable[[VM], object] = accept,
) -> tuple[Inventory, Followed]:
    """Keep an inventory as the store has it; returns when the store has told it for the first time.

    A VM for which `check` raises ValueError is left out, and status says so: what one VM is configured to be must not
    keep this service from the others.
    `returned` is called after each snapshot: the store may be a new one, which has lost the statistics of its last
    second. `serial` is told the zones' serial before `changed` is what made it.
    """
    inventory = Inventory(check)
    process.left_out = lambda: inventory.notes(inventory.refused)

    async def ask() -> Snapshot:
        first = page = await _page(store, "")
        inventory.begin_reset()
        inventory.take(page.leaves)
        while page.upto:
            page = await _page(store, page.upto)
            inventory.take(page.leaves)
        return first.epoch, first.number, first

    def reset(first: Any) -> None:
        serial(first.serial)
        tell(inventory.end_reset())
        returned()

    def apply(item: FeedItem) -> None:
        committed = body_as(Committed, item.body_kind, item.body or {})
        serial(committed.serial)
        tell(inventory.apply((change.path, change.value) for change in committed.changes))

    def tell(changes: list[VmChanged]) -> None:
        for uuid, fault in inventory.new_faults.items():
            log.warning("VM left out", uuid=uuid, reason=fault)
        inventory.new_faults.clear()
        changed(changes)

    feed = process.subscribe("store", "vm", ask=ask, reset=reset, apply=apply)
    await _patiently(feed, "the store")
    return inventory, feed


def follow_states(
    process: World,
    vmds: Mapping[str, Caller],
    reset: Callable[[list[VmStatus], str], None],
    changed: Callable[[VmStatus, bool], None],
) -> dict[str, Followed]:
    """Tell each VM's state: `reset` takes all of one host, `changed` one and whether it is gone.

    Returns at once the feed of each host; its `synced` says when the first states have been told.
    """
    return {host: _follow_host(process, host, vmd, reset, changed) for host, vmd in vmds.items()}


def _follow_host(
    process: World,
    host: str,
    vmd: Caller,
    reset: Callable[[list[VmStatus], str], None],
    changed: Callable[[VmStatus, bool], None],
) -> Followed:
    async def ask() -> Snapshot:
        listed = await vmd.call(ListVms(), VmList, SNAPSHOT_TIMEOUT_S)
        return listed.epoch, listed.number, listed.vms

    def apply(item: FeedItem) -> None:
        change = body_as(VmStateChanged, item.body_kind, item.body or {})
        changed(change.vm, change.gone)

    return process.subscribe("vmd", "vm", ask=ask, reset=lambda vms: reset(vms, host), apply=apply, host=host)


async def _page(store: Caller, after: str) -> Leaves:
    return await store.call(
        List(prefix=VM_ROOT, topic="vm", after=after, limit=PAGE_LEAVES), Leaves, SNAPSHOT_TIMEOUT_S
    )


async def told(store: Caller, prefix: str) -> dict[str, str]:
    """Return the statistics below a path, when the store can tell them."""
    waits = False
    while True:
        try:
            return (await store.call(List(prefix=prefix, topic="stats"), Leaves, PATIENCE_S)).leaves
        except JitsuError:
            waits = _waits_for("the store", waits)


async def _patiently(feed: Followed, owner: str) -> None:
    waits = False
    while True:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await feed.synced.wait()
            return
        except TimeoutError:
            waits = _waits_for(owner, waits)


def _waits_for(owner: str, is_told: bool) -> bool:
    """Tell the operator once, and the service manager, which shows it until this process is ready."""
    if not is_told:
        log.info(f"waiting for {owner}")
        notify(f"STATUS=waiting for {owner}")
    return True
