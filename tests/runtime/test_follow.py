"""How services keep up with the store, in a world that the test plays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog

from jitsu_protocol.messages import (
    Branch,
    BranchList,
    ChangesList,
    ChangesSince,
    Commit,
    CommitChanges,
    Committed,
    FeedItem,
    Leaves,
    List,
    ListBranches,
)
from jitsu_protocol.model.errors import NotFound, TimedOut
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.bus.follow import PATIENCE_S, fetch_leaves, follow_vms
from jitsu_runtime.bus.watch import Watch
from tests.support.world import PlayedPeer, PlayedWorld, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM

A, B, C = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2, 3))


def vm_leaves(uuid: str, name: str) -> dict[str, str]:
    leaves = {"dns/0": f"{name}.example.org", "ip/0": "192.0.2.1", "name/0": name}
    return {f"{VM_ROOT}/{uuid}/config/{key}": value for key, value in leaves.items()}


PAGES = {
    "": Leaves(leaves=vm_leaves(A, "a"), commit="c1", epoch="e", number=1, serial=5, upto=A),
    A: Leaves(leaves=vm_leaves(B, "b"), commit="c2", epoch="e", number=2, serial=6, upto=""),
}


async def test_vms_come_from_a_snapshot_in_pages_and_then_from_each_commit() -> None:
    order: list[str] = []

    def changed(changes: Sequence[VmChanged]) -> None:
        order.append(" ".join(sorted(change.new.name for change in changes if change.new is not None)))

    def refuse_c(vm: VM) -> None:
        if vm.name == "c":
            raise ValueError("c is not wanted here")

    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("vmd", group)
        world.answers[List] = lambda request: PAGES[request.after]
        inventory, _ = await follow_vms(
            world,
            world.client("store"),
            changed,
            lambda: order.append("returned"),
            lambda serial: order.append(f"serial {serial}"),
            refuse_c,
        )
        assert order == ["serial 5", "a b", "returned"]
        changes = [{"path": path, "value": value} for path, value in vm_leaves(C, "c").items()]
        committed = Committed.model_validate({"commit": "c3", "changes": changes, "serial": 7})
        world.followed["store vm"].publish(committed)
        assert order[3:] == ["serial 7", ""]
        assert sorted(inventory.vms) == [A, B]
        assert world.left_out() == [f"VM c ({C}) is left out: c is not wanted here"]


async def test_a_service_that_waits_for_the_store_reports_that_once_and_goes_on_asking() -> None:
    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("reaper", group)
        with structlog.testing.capture_logs() as logged:
            fetching = group.create_task(fetch_leaves(world, world.client("store"), "jitsu/stats"))
            await settled()
            assert [line["event"] for line in logged if line["log_level"] == "info"] == []
            await world.advance(3 * PATIENCE_S)
            world.answers[List] = lambda request: Leaves(
                leaves={f"{request.prefix}/x": "1"}, commit="c", epoch="e", number=1
            )
            await world.advance(PATIENCE_S)
            assert await fetching == {"jitsu/stats/x": "1"}
            world.time.advance(3 * PATIENCE_S)
        assert [line["event"] for line in logged if line["log_level"] == "info"] == ["waiting for the store"]


def commit(id: str) -> CommitChanges:
    return CommitChanges(commit=Commit(id=id, ts=0.0, author="operator:x", message=""), changes=[])


async def test_a_watch_reads_each_commit_once_also_after_the_store_was_away() -> None:
    pages = {
        "c0": ChangesList(commits=[commit("c1")], upto="c1", more=True),
        "c1": ChangesList(commits=[commit("c2")], upto="c2", more=False),
        "c2": ChangesList(commits=[commit("c3")], upto="c3", more=False),
    }
    is_away = False

    def changes(request: ChangesSince) -> ChangesList:
        if is_away:
            raise TimedOut("the store does not answer")
        return pages[request.since]

    head = Branch(name="master", commit=Commit(id="c0", ts=0.0, author="operator:x", message=""))
    store = PlayedPeer(
        {ListBranches: lambda _: BranchList(branches=[head], epoch="e", number=1), ChangesSince: changes}
    )
    watch = Watch(store, "master", "jitsu/vm")
    commits = watch.commits()
    assert [(await anext(commits)).commit.id for _ in range(2)] == ["c1", "c2"]
    is_away = True
    third = asyncio.ensure_future(anext(commits))
    for _ in range(8):
        watch.apply(FeedItem(epoch="e", number=2))
        await asyncio.sleep(0)
    assert not third.done()
    is_away = False
    watch.reset({})
    assert (await third).commit.id == "c3"
    await commits.aclose()  # type: ignore[attr-defined]


async def test_a_watch_of_a_branch_that_does_not_exist_names_the_nearest() -> None:
    head = Branch(name="master", commit=Commit(id="c0", ts=0.0, author="operator:x", message=""))
    store = PlayedPeer({ListBranches: lambda _: BranchList(branches=[head], epoch="e", number=1)})
    with pytest.raises(NotFound, match="master"):
        await anext(Watch(store, "mastr", "").commits())
