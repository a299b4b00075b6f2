"""How vmd, dns, synjitsu and the reaper keep up with the store's VMs and with vmd's states.

Each follows a feed (wire/feed.py): a snapshot first, then every change in order. Snapshots of the store come in pages
(wire/pages.py). A service that has to wait for the store while it starts reports that after PATIENCE_S, to the log and
to the service manager, so that an operator sees what it waits for.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import Committed, Leaves, List, ListVms, VmList, VmStateChanged
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.inventory import Inventory, accept
from jitsu_protocol.wire.codec import body_as
from jitsu_protocol.wire.pages import VmPages
from jitsu_runtime.service_manager import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jitsu_protocol.messages import FeedItem, VmStatus
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Caller, Followed, Snapshot, World

SNAPSHOT_TIMEOUT_S = 5.0
PATIENCE_S = 2.0
"""How long a service waits for the store before it reports that it does."""

log = structlog.get_logger("follow")


async def follow_vms(
    world: World,
    store: Caller,
    changed: Callable[[Sequence[VmChanged]], None],
    returned: Callable[[], None] = lambda: None,
    serial: Callable[[int], None] = lambda _: None,
    check: Callable[[VM], object] = accept,
) -> tuple[Inventory, Followed]:
    """Keep an inventory of the store's VMs up to date; returns as soon as it has the first snapshot.

    `changed` is called with the VMs that differ from before. A VM for which `check` raises ValueError is left out and
    shown by `jitsu status`: one VM's configuration must not keep this service from the others.
    `returned` is called after each snapshot, because the store may have restarted, and a new store has lost the
    statistics of its last second. `serial` is called with the zones' serial before `changed` is called with what led to
    that serial.
    """
    inventory = Inventory(check)
    world.left_out = lambda: inventory.notes(inventory.refused)

    async def ask() -> Snapshot:
        pages = VmPages()
        inventory.begin_reset()
        while (request := pages.request()) is not None:
            page = await store.call(request, Leaves, SNAPSHOT_TIMEOUT_S)
            inventory.add(page.leaves)
            pages.received(page)
        first = pages.first
        assert first is not None
        return first.epoch, first.number, first

    def reset(first: Any) -> None:
        serial(first.serial)
        report(inventory.end_reset())
        returned()

    def apply(item: FeedItem) -> None:
        committed = body_as(Committed, item.body_kind, item.body or {})
        serial(committed.serial)
        report(inventory.apply((change.path, change.value) for change in committed.changes))

    def report(changes: list[VmChanged]) -> None:
        for uuid, fault in inventory.new_faults.items():
            log.warning("VM left out", uuid=uuid, reason=fault)
        inventory.new_faults.clear()
        changed(changes)

    feed = world.subscribe("store", "vm", ask=ask, reset=reset, apply=apply)
    with reported_wait("the store", world.clock):
        await feed.synced.wait()
    return inventory, feed


def follow_states(
    world: World,
    vmds: Mapping[str, Caller],
    reset: Callable[[list[VmStatus], str], None],
    changed: Callable[[VmStatus, bool], None],
) -> dict[str, Followed]:
    """Follow the states of all VMs, and return the feed of each host at once.

    `reset` is called with all VMs of one host and that host, `changed` with one VM and whether it is no longer
    configured. A feed's `synced` is set when `reset` has been called for its host.
    """
    return {host: _follow_host(world, host, vmd, reset, changed) for host, vmd in vmds.items()}


def _follow_host(
    world: World,
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

    return world.subscribe("vmd", "vm", ask=ask, reset=lambda vms: reset(vms, host), apply=apply, host=host)


async def fetch_leaves(world: World, store: Caller, prefix: str) -> dict[str, str]:
    """Return the statistics below a path of the state tree; waits until the store can be reached."""
    with reported_wait("the store", world.clock):
        while True:
            try:
                return (await store.call(List(prefix=prefix, topic="stats"), Leaves, PATIENCE_S)).leaves
            except JitsuError as error:
                log.debug("asking the store again", prefix=prefix, reason=str(error))


@contextmanager
def reported_wait(owner: str, clock: Clock) -> Iterator[None]:
    """Report what this process waits for, if that takes longer than PATIENCE_S.

    The service manager shows the report until the process is ready (sd_notify(3), STATUS=).
    """

    def report() -> None:
        log.info(f"waiting for {owner}")
        notify(f"STATUS=waiting for {owner}")

    timer = clock.call_in(PATIENCE_S, report)
    try:
        yield
    finally:
        timer.cancel()
