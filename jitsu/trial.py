"""What a merge or a pull would change: it is tried on a branch of its own, which is deleted afterwards.

command                              store
  |-- ListBranches ------------------>|  remembers the commit of the branch that is to be merged
  |-- CreateBranch trial from `into` ->|
  |-- Merge branch into trial -------->|  a conflict, or a result that could not run, is refused here
  |-- Diff of `into` and trial ------->|
  |-- DeleteBranch trial ------------->|
  |   summary; somebody agrees         |
  |-- ListBranches ------------------->|  the branch must still be at that commit
  |-- Merge branch into `into` ------->|

A pull fetches to a scratch branch first, which has to be there until it is merged, however long somebody thinks:

command                              store
  |-- Fetch to pull-... -------------->|  answers with the commit of the other repository
  |   the trial of pull-..., as above  |
  |   summary; somebody agrees         |  deletes pull-... if that takes longer than ten minutes
  |-- CreateBranch pull-... at commit ->|  finds it, or makes it again: its commits are still in the store
  |-- Merge pull-... into `into` ------>|
  |-- DeleteBranch pull-... ---------->|

The store deletes what a command that was killed leaves (`scratch` of CreateBranch and Fetch).
"""

from __future__ import annotations

import contextlib
import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.messages import (
    Applied,
    BranchList,
    Change,
    CreateBranch,
    DeleteBranch,
    Diff,
    Difference,
    Done,
    Fetch,
    Leaves,
    List,
    ListBranches,
    Merge,
)
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import Conflict, JitsuError, NotFound
from jitsu_protocol.model.identity import Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jitsu.link import Link

TRIAL_TIMEOUT_S = 60.0


async def commit_of(link: Link, branch: str) -> str:
    """Return the latest commit of a branch; raises NotFound."""
    listed = await link.call("store", ListBranches(), BranchList, TRIAL_TIMEOUT_S)
    for each in listed.branches:
        if each.name == branch:
            return each.commit.id
    raise NotFound(f"there is no branch {branch[:100]!r}", hint="`jitsu branch` lists them")


async def unmoved(link: Link, branch: str, commit: str) -> None:
    """Raise Conflict if a branch is no longer at the commit that somebody has agreed to."""
    if await commit_of(link, branch) != commit:
        raise Conflict(f"the branch {branch} has changed in the meantime", hint="look at the summary again")


async def tried(link: Link, branch: str, into: str, author: str) -> list[Change]:
    """Return what merging a branch into another would change; raises whatever the merge would."""
    listed = await link.call("store", ListBranches(), BranchList, TRIAL_TIMEOUT_S)
    if into not in {each.name for each in listed.branches}:  # it has no commit yet
        theirs = await link.call("store", List(branch=branch), Leaves, TRIAL_TIMEOUT_S)
        return [Change(path=path, value=value) for path, value in theirs.leaves.items()]
    async with scratch_branch(link, author, into) as trial:
        asked = Merge(branch=branch, into=trial, author=author, request=uuid.uuid4().hex[:16])
        try:
            merged = await link.call("store", asked, Applied, TRIAL_TIMEOUT_S)
        except JitsuError as error:
            error.message = error.message.replace(trial, into)
            error.hint = error.hint.replace(trial, into)
            raise
        if not merged.changed:
            return []
        return (await link.call("store", Diff(old=into, new=trial), Difference, TRIAL_TIMEOUT_S)).changes


@contextlib.asynccontextmanager
async def scratch_branch(link: Link, author: str, start: str) -> AsyncIterator[str]:
    """Make a branch that is gone afterwards, with a name that this author may give."""
    who = identity.parse(author)
    name = f"trial-{secrets.token_hex(6)}"
    if who.role is Role.VM:
        name = f"{who.name}-{name}"
    asked = CreateBranch(name=name, start=start, author=author, scratch=True)
    await link.call("store", asked, Applied, TRIAL_TIMEOUT_S)
    async with _deleted_afterwards(link, name, author):
        yield name


@dataclass(frozen=True)
class Fetched:
    """A branch of another repository that has been fetched to a scratch branch of ours."""

    name: str
    """Of the scratch branch."""
    commit: str

    async def keep(self, link: Link, author: str) -> None:
        """Have the scratch branch where it was fetched to; raises Conflict if that cannot be."""
        asked = CreateBranch(name=self.name, start=self.commit, author=author, scratch=True)
        try:
            await link.call("store", asked, Applied, TRIAL_TIMEOUT_S)
        except NotFound:
            raise Conflict(
                f"what was fetched, the commit {self.commit[:10]}, is no longer in the store, so nothing is changed",
                hint="pull again",
            ) from None


@contextlib.asynccontextmanager
async def fetched(link: Link, remote: str, branch: str, author: str, timeout_s: float) -> AsyncIterator[Fetched]:
    """Fetch a branch of another repository to one of ours that is gone afterwards."""
    name = f"pull-{secrets.token_hex(6)}"
    asked = Fetch(remote=remote, branch=branch, into=name, author=author, scratch=True)
    applied = await link.call("store", asked, Applied, timeout_s)
    async with _deleted_afterwards(link, name, author):
        yield Fetched(name, applied.commit)


@contextlib.asynccontextmanager
async def _deleted_afterwards(link: Link, name: str, author: str) -> AsyncIterator[None]:
    """Delete a branch in the end; if that fails, or this process is killed, the store does it later."""
    try:
        yield
    finally:
        with contextlib.suppress(JitsuError):
            await link.call("store", DeleteBranch(name=name, author=author), Done, TRIAL_TIMEOUT_S)
