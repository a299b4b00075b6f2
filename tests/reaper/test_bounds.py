"""What a key of dns or synjitsu may make up costs the reaper no more than a bounded amount of memory, and nobody else
anything (G9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq.asyncio

from jitsu_protocol.messages import Applied, Done, Leaves, List, Record, Register, Report, Use
from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT, to_tree
from jitsu_reaper.rules import activity as rules
from jitsu_reaper.rules.activity import Activity
from jitsu_reaper.wires.server import MAX_WARNINGS, ReaperServer
from jitsu_runtime.bus.zeromq import feed_server, rpc_server
from jitsu_store.rules.access import record_refusal
from tests.support.process import running_process
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.messages import Request
    from jitsu_runtime.world import Handler

VM = make_vm()
NAME = next(iter(VM.names))
SMALL = {"MAX_UNKNOWN": 10, "MAX_FOREIGN_NAMES": 30, "MAX_HONOURED": 5, "MAX_FLOORS": 4}


def report(batch: int, uses: list[Use], **more: object) -> Report:
    return Report.model_validate(
        {"replica": "r", "instance": "i", "batch": batch, "lease_s": 9.0, "uses": uses, **more}
    )


@pytest.fixture
def activity(monkeypatch: pytest.MonkeyPatch) -> Activity:
    """Return one with small limits, that has heard of a hundred VMs and hosts that do not exist."""
    for name, limit in SMALL.items():
        monkeypatch.setattr(rules, name, limit)
    made = Activity(floor=0.0)
    made.configured(VM.uuid, VM.ttl, VM.names)
    for n in range(100):
        uses = [Use(f"made-up-{n}", f"n{m}.test", 1, 1.0) for m in range(3)]
        host = {"instance": f"i{n}", "host": f"h{n}", "drains": [f"{n}/{m}" for m in range(50)]}
        made.report(report(n, uses, **host), 100.0 + n, 1e9)
    return made


def test_g9_uses_drains_and_hosts_that_are_made_up_are_kept_within_bounds(activity: Activity) -> None:
    assert {vm for vm, _ in activity.totals} == {f"made-up-{n}" for n in range(90, 100)}
    assert activity.unsaved.keys() == activity.totals.keys()
    assert activity.all_honour("99/4", "h99")
    assert not activity.all_honour("99/5", "h99")
    assert activity.last_use("any", "h2") >= 102.0, "hosts beyond the limit: their VMs count as used"
    assert activity.last_use("any", "h98") >= 198.0


def test_g9_names_that_no_vm_has_have_an_end_too(activity: Activity) -> None:
    activity.report(report(200, [Use(VM.uuid, f"x{n}.test", 1, 0.0) for n in range(200)]), 300.0, 1e9)
    assert sum(vm == VM.uuid for vm, _ in activity.totals) <= SMALL["MAX_FOREIGN_NAMES"]
    activity.report(report(201, [Use(VM.uuid, NAME, 7, 0.0)]), 301.0, 1e9)
    assert activity.totals[VM.uuid, NAME].requests == 7, "its own name is counted whatever others did"
    assert activity.last_use(VM.uuid, "") == 301.0


def test_a_number_of_queries_never_has_more_digits_than_the_store_takes(activity: Activity) -> None:
    for n in range(2000):
        activity.report(report(300 + n, [Use(VM.uuid, NAME, 2**53, 0.0)]), 400.0, 1e9)
    total = activity.totals[VM.uuid, NAME].requests
    assert not record_refusal("reaper", {f"jitsu/stats/{VM.uuid}/dns/{NAME}/total_requests": str(total)})


async def test_g9_a_name_that_the_store_refuses_keeps_no_other_from_being_saved(tmp_path: Path) -> None:
    saved: dict[str, str] = {}

    def record(request: Record) -> Done:
        if reason := record_refusal(request.service, request.values):
            raise Refused(reason)
        saved.update(request.values)
        return Done()

    def leaves(request: List) -> Leaves:
        return Leaves(leaves=to_tree(VM) if request.prefix == VM_ROOT else {}, commit="", epoch="e", number=0)

    def register(request: Register) -> Applied:
        return Applied(commit="", changed=len(request.leaves))

    async with running_process("reaper", tmp_path) as process:
        context = zmq.asyncio.Context.instance()
        handlers: dict[type[Request], Handler] = {Record: record, Register: register, List: leaves}
        process.spawn(rpc_server(context, f"ipc://{tmp_path}/store.rpc", handlers).run())
        process.spawn(feed_server(context, f"ipc://{tmp_path}/store.feed", ["vm"]).run())
        server = ReaperServer(process)
        await server.start()
        uses = [Use(VM.uuid, NAME, 3, 0.0), Use(VM.uuid, "a/b", 1, 0.0), Use("../..", "..", 1, 0.0)]
        await server.report(report(1, uses, warnings=["x" * 1000] * 1000))
        await server.stop()
        assert sum(map(len, server.notes())) < MAX_WARNINGS * 300
    assert saved[f"{STATS_ROOT}/{VM.uuid}/dns/{NAME}/total_requests"] == "3"
