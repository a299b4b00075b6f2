"""The configuration: branches, differences, merges, history, and the tree itself."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from jitsu_protocol.messages import (
    MASTER,
    Applied,
    Branch,
    BranchList,
    Change,
    CreateBranch,
    DeleteBranch,
    Diff,
    Difference,
    Done,
    ListBranches,
    Merge,
)
from jitsu_protocol.model.errors import Conflict, NotFound
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.wires.api import TheApi, TheCaller
from jitsu_web.wires.asking import conflict_is_a_precondition
from jitsu_web.wires.past import change_shapes, history_of, of_commit, reverted
from jitsu_web.wires.shapes import (
    AppliedShape,
    AskedBranch,
    AskedMerge,
    AskedRevert,
    AskedValue,
    BranchesShape,
    BranchShape,
    CommitShape,
    DiffShape,
    HistoryShape,
    Limit,
    ValueShape,
)

router = APIRouter(prefix="/config", tags=["config"])

BranchName = Annotated[str, Path(max_length=200)]
BranchQuery = Annotated[str, Query(min_length=1, max_length=200)]
Revision = Annotated[str, Query(min_length=1, max_length=200, description="A branch, or the id of a commit.")]
TreePath = Annotated[str, Path(max_length=1000)]
IfMatch = Annotated[str, Header(max_length=2000, description="Commits (ETags) since which it must not have changed.")]


def _shape_of(branch: Branch) -> BranchShape:
    return BranchShape(name=branch.name, commit=CommitShape(**of_commit(branch.commit)))


@router.get("/branches")
async def list_branches(api: TheApi, _: TheCaller) -> BranchesShape:
    """List all branches with their latest commits."""
    found = await api.asker.store(ListBranches(), BranchList)
    return BranchesShape(items=[_shape_of(each) for each in found.branches])


@router.post("/branches", status_code=201)
async def create_branch(api: TheApi, caller: TheCaller, asked: AskedBranch) -> AppliedShape:
    """Make a branch at a revision; also if it is there already."""
    request = CreateBranch(name=asked.name, start=asked.start, author=caller.identity)
    applied = await api.asker.store(request, Applied)
    return AppliedShape(commit=applied.commit, changed=applied.changed)


@router.get("/diff")
async def compare(
    api: TheApi,
    _: TheCaller,
    old: Annotated[str, Query(alias="from", min_length=1, max_length=200)],
    new: Annotated[str, Query(alias="to", min_length=1, max_length=200)],
    prefix: Annotated[str, Query(max_length=1000)] = "",
) -> DiffShape:
    """Show in what two revisions differ; each is a branch, or the id of a commit."""
    found = await api.asker.store(Diff(old=old, new=new, prefix=prefix), Difference)
    return DiffShape(changes=change_shapes(found.changes))


@router.post("/merge")
async def merge(api: TheApi, caller: TheCaller, asked: AskedMerge) -> AppliedShape:
    """Merge a branch into another; a conflict is a 409 with a row for each path in `details`."""
    if asked.commit:
        await _check_unmoved(api, asked.branch, asked.commit)
    request = Merge(
        branch=asked.branch,
        into=asked.into,
        author=caller.identity,
        message=asked.message,
        request=secrets.token_hex(8),
    )
    applied = await api.asker.store(request, Applied)
    return AppliedShape(commit=applied.commit, changed=applied.changed)


async def _check_unmoved(api: TheApi, branch: str, commit: str) -> None:
    """Raise HttpProblem unless a branch is at the commit that somebody has reviewed."""
    found = await api.asker.store(ListBranches(), BranchList)
    if not any(each.name == branch and each.commit.id == commit for each in found.branches):
        raise HttpProblem(412, f"{branch} is no longer at {commit[:10]}", "look at it again, then merge")


@router.get("/history")
async def read_config_history(
    api: TheApi,
    _: TheCaller,
    branch: BranchQuery = MASTER,
    path: Annotated[str, Query(max_length=1000)] = VM_ROOT,
    limit: Limit = 20,
) -> HistoryShape:
    """List the latest commits of a branch that changed something below a path, each with what it changed there."""
    return await history_of(api, path.strip("/"), limit, branch)


@router.post("/revert")
async def revert_config(
    api: TheApi, caller: TheCaller, asked: AskedRevert, branch: BranchQuery = MASTER
) -> AppliedShape:
    """Make the VMs of a branch what they were at a commit."""
    return await reverted(api, caller, VM_ROOT, asked, branch)


@router.get("/branches/{branch:path}/tree/{path:path}")
async def read_tree(api: TheApi, _: TheCaller, branch: BranchName, path: TreePath, response: Response) -> ValueShape:
    """Return the value at a path, or all that is below it."""
    clean = path.strip("/")
    found = await api.asker.leaves(clean, branch)
    if not found.leaves:
        raise NotFound(f"there is nothing at {clean[:200]!r} on {branch[:100]}")
    response.headers["ETag"] = f'"{found.commit}"'
    value = found.leaves.get(clean)
    leaves = {} if value is not None else found.leaves
    return ValueShape(path=clean, value=value, leaves=leaves, commit=found.commit)


@router.put("/branches/{branch:path}/tree/{path:path}")
async def write_tree(
    api: TheApi, caller: TheCaller, branch: BranchName, path: TreePath, asked: AskedValue, if_match: IfMatch = ""
) -> AppliedShape:
    """Set the value at a path."""
    clean = path.strip("/")
    # Read first: what is committed after that fails the change itself, what was committed before fails If-Match.
    old = (await api.asker.leaves(clean, branch)).leaves.get(clean)
    await api.asker.check_match(if_match, clean, branch)
    change = Change(path=clean, value=asked.value, old=old)
    return await _write(api, caller, [change], asked.message or f"Set {clean}", branch)


@router.delete("/branches/{branch:path}/tree/{path:path}")
async def remove_from_tree(
    api: TheApi, caller: TheCaller, branch: BranchName, path: TreePath, if_match: IfMatch = ""
) -> AppliedShape:
    """Remove the value at a path, or all that is below it."""
    clean = path.strip("/")
    leaves = (await api.asker.leaves(clean, branch)).leaves
    await api.asker.check_match(if_match, clean, branch)
    if not leaves:
        raise NotFound(f"there is nothing at {clean[:200]!r} on {branch[:100]}")
    changes = [Change(path=each, value=None, old=value) for each, value in leaves.items()]
    return await _write(api, caller, changes, f"Remove {clean}", branch)


# After the routes of the tree, whose paths this one matches as well.
@router.delete("/branches/{branch:path}", status_code=204)
async def delete_branch(api: TheApi, caller: TheCaller, branch: BranchName) -> None:
    """Delete a branch and what was not merged; also if there is none."""
    await api.asker.store(DeleteBranch(name=branch, author=caller.identity), Done)


async def _write(api: TheApi, caller: TheCaller, changes: list[Change], message: str, branch: str) -> AppliedShape:
    expect: dict[str, Any] = {change.path: change.old for change in changes}
    try:
        applied = await api.asker.apply(caller, changes, message, branch, expect)
    except Conflict as error:
        raise conflict_is_a_precondition(error) from None
    return AppliedShape(commit=applied.commit, changed=applied.changed)
