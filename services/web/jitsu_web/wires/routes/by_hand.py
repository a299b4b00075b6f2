"""What is done with a VM by hand: start, stop, keep up; and what has happened to it."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from jitsu_protocol.messages import Change, Timelines, Trace, WhyReport
from jitsu_protocol.model.holds import KEEP_ROOT, Hold, path_of
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.rules.timelines import summon_of
from jitsu_web.wires.api import Api, TheApi, TheCaller
from jitsu_web.wires.asking import HAND_S
from jitsu_web.wires.past import history_of, reverted
from jitsu_web.wires.shapes import (
    AppliedShape,
    AskedKeep,
    AskedRevert,
    HistoryShape,
    Limit,
    SummonsShape,
    VmShape,
)

router = APIRouter(prefix="/vms/{name}", tags=["vms"])

Wait = Annotated[float, Query(ge=0.05, le=HAND_S, description="Seconds to wait for it; then the answer is 202.")]
READY = frozenset({VmState.READY, VmState.DRAINING})
SEEN_S = 0.5
MAX_KEEP_S = 366 * 86_400.0
_ACCEPTED: Any = {202: {"model": VmShape, "description": "It is under way"}}


@router.post("/start", response_model=VmShape, responses=_ACCEPTED)
async def start_vm(api: TheApi, caller: TheCaller, name: str, response: Response, wait_s: Wait = 1.0) -> Any:
    """Start a VM, whatever its back-off says."""
    vm = api.live.board.find(name)
    is_done = await api.asker.start(caller, vm.uuid, vm.host, wait_s)
    if not (is_done and await _seen(api, vm.uuid, READY)):
        response.status_code = 202
    return api.live.vm(vm.uuid)


@router.post("/stop", response_model=VmShape, responses=_ACCEPTED)
async def stop_vm(api: TheApi, caller: TheCaller, name: str, response: Response, wait_s: Wait = 1.0) -> Any:
    """Stop a VM now, whoever uses it; the next query starts it again."""
    vm = api.live.board.find(name)
    is_done = await api.asker.stop(caller, vm.uuid, vm.host, wait_s)
    if not (is_done and await _seen(api, vm.uuid, AT_REST)):
        response.status_code = 202
    return api.live.vm(vm.uuid)


@router.post("/keep", response_model=VmShape, responses=_ACCEPTED)
async def keep_vm(
    api: TheApi, caller: TheCaller, name: str, asked: AskedKeep, response: Response, wait_s: Wait = 1.0
) -> Any:
    """Start a VM and keep it up although nobody uses it; without an end, until DELETE."""
    vm = api.live.board.find(name)
    until = _end_of(asked, api.clock.wall())
    # The text of a keep has words between blanks: who asked is one of them.
    keep = Hold(until, f"operator:{caller.user}", " ".join(f"via web {asked.reason}".split()))
    path = path_of(vm.uuid, KEEP_ROOT)
    await api.asker.apply(caller, [Change(path=path, value=keep.text())], f"Keep up {vm.name}")
    is_done = await api.asker.start(caller, vm.uuid, vm.host, wait_s)
    if not (is_done and await _seen(api, vm.uuid, READY)):
        response.status_code = 202
    return api.live.vm(vm.uuid)


@router.delete("/keep", response_model=VmShape)
async def release_vm(api: TheApi, caller: TheCaller, name: str) -> Any:
    """Let a VM stop again when nobody uses it."""
    vm = api.live.board.find(name)
    path = path_of(vm.uuid, KEEP_ROOT)
    if (await api.asker.leaves(path)).leaves:
        await api.asker.apply(caller, [Change(path=path, value=None)], f"Release {vm.name}")
    return api.live.vm(vm.uuid)


@router.get("/why")
async def explain_vm(api: TheApi, _: TheCaller, name: str) -> WhyReport:
    """Say why a VM has booted, why it is up, and when it stops, as `jitsu why --json` prints it."""
    vm = api.live.board.find(name)
    return await api.asker.why(vm.uuid)


@router.get("/summons")
async def list_summons(api: TheApi, _: TheCaller, name: str, limit: Limit = 20) -> SummonsShape:
    """List the latest summons of a VM, newest first, with the time of each stage."""
    vm = api.live.board.find(name)
    found = await api.asker.vmd(vm.host, Trace(vm=vm.uuid, limit=limit), Timelines)
    return SummonsShape.model_validate({"items": [summon_of(each) for each in reversed(found.timelines)]})


@router.get("/history")
async def read_history(api: TheApi, _: TheCaller, name: str, limit: Limit = 20) -> HistoryShape:
    """List the latest commits that changed a VM, newest first, each with what it changed."""
    return await history_of(api, _path(api, name), limit)


@router.post("/revert")
async def revert_vm(api: TheApi, caller: TheCaller, name: str, asked: AskedRevert) -> AppliedShape:
    """Make a VM what it was at a commit."""
    return await reverted(api, caller, _path(api, name), asked)


async def _seen(api: Api, uuid: str, states: Collection[str]) -> bool:
    """Return whether a VM is seen in one of these states soon: a reply may be faster than the feed."""
    return await api.live.hub.until(lambda: api.live.board.state(uuid) in states, SEEN_S)


def _path(api: Api, name: str) -> str:
    return api.live.board.find(name).path


def _end_of(asked: AskedKeep, wall: float) -> float:
    """Return the Unix time at which a keep ends, 0 for none; raises HttpProblem."""
    if asked.until is not None and asked.for_s is not None:
        raise HttpProblem(422, "until and for_s exclude each other", "give one of them, or none for no end")
    if asked.for_s is not None:
        return math.ceil(wall + asked.for_s)
    if asked.until is None:
        return 0.0
    try:
        until = datetime.fromisoformat(asked.until)
        if until.tzinfo is None:
            raise ValueError("it has no time zone")
        end = until.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        hint = "for example 2026-12-24T18:00:00Z"
        raise HttpProblem(422, f"until: {asked.until[:64]!r} is not a moment: {error}", hint) from None
    if not wall < end <= wall + MAX_KEEP_S:
        raise HttpProblem(422, "until: has to be in the future, and within a year", "give no end to keep it up longer")
    return math.ceil(end)
