"""The store against a model of plain dictionaries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitsu_protocol.messages import ChangesSince, DeleteBranch, List, ListBranches
from jitsu_protocol.model.errors import JitsuError
from jitsu_store.wires.repacker import RepackPass
from tests.support.examples import examples
from tests.support.store import ME, Store, git, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

leaf_paths = st.sampled_from(["a", "a/x", "b/x", "b/y", "jitsu/stats/v/total_starts", "jitsu/stats/v/start_ts"])
values = st.none() | st.sampled_from(["1", "2", "30"])
branches = st.sampled_from(["master", "p", "q"])
steps = st.one_of(
    st.tuples(st.just("apply"), branches, st.dictionaries(leaf_paths, values, min_size=1, max_size=3)),
    st.tuples(st.just("branch"), branches, branches),
    st.tuples(st.just("delete"), branches, st.none()),
    st.tuples(st.just("merge"), branches, branches),
    st.tuples(st.just("crash"), st.none(), st.none()),
    st.tuples(st.just("pack"), st.none(), st.none()),
)


def blocked(leaves: Mapping[str, str]) -> bool:
    return any(other.startswith(path + "/") for path in leaves for other in leaves)


class Model:
    """Branches as histories of dictionaries: each commit is its leaves and the commits that it knows."""

    def __init__(self) -> None:
        self.commits: list[tuple[dict[str, str], frozenset[int]]] = []
        self.heads: dict[str, int] = {}

    def leaves(self, branch: str) -> dict[str, str]:
        return self.commits[self.heads[branch]][0] if branch in self.heads else {}

    def commit(self, branch: str, leaves: dict[str, str], *parents: int) -> None:
        known = frozenset(parents).union(*(self.commits[parent][1] for parent in parents))
        self.commits.append((leaves, known))
        self.heads[branch] = len(self.commits) - 1

    def base(self, one: int, other: int) -> dict[str, str] | None:
        """Return the leaves of the latest common ancestor; None if there is more than one candidate."""
        common = (self.commits[one][1] | {one}) & (self.commits[other][1] | {other})
        best = [each for each in common if not any(each in self.commits[later][1] for later in common)]
        return self.commits[best[0]][0] if len(best) == 1 else None


def merged(base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]) -> dict[str, str] | None:
    """Merge as the rules say; None if that is refused."""
    result = dict(ours)
    for path in set(base) | set(theirs):
        b, o, t = base.get(path), ours.get(path), theirs.get(path)
        if t in (b, o):
            continue
        new: str | None
        if o == b:
            new = t
        elif not path.startswith("jitsu/stats/"):
            return None
        elif o is None or t is None:
            new = o or t
        elif "total" in path:
            new = str(int(o) + int(t) - int(b or 0))
        else:
            new = max(o, t, key=float)
        if new is None:
            result.pop(path, None)
        else:
            result[path] = new
    return None if blocked(result) else result


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(steps, max_size=25))
def test_g5_the_store_is_what_a_model_of_dictionaries_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("db")
    asyncio.run(_against_model(path, steps))


async def _against_model(path: Path, steps: list[tuple[str, Any, Any]]) -> None:
    model, done = Model(), 0
    while True:
        async with running(path) as store:
            start = await _head(store)
            before = await store.leaves()
            for step in steps[done:]:
                done += 1
                if step[0] == "crash":
                    break
                await _one_step(store, model, step)
            for branch in ("master", *model.heads):
                assert await store.leaves(branch) == model.leaves(branch), branch
            listed = await store.server.reader.list_branches(ListBranches())
            assert {each.name for each in listed.branches} == set(model.heads)
            await _replay_equals_tree(store, start, before)
        if done == len(steps):
            break
    git(path, "fsck", "--strict")


async def _head(store: Store) -> str:
    return (await store.server.reader.list(List())).commit


async def _replay_equals_tree(store: Store, start: str, leaves: dict[str, str]) -> None:
    page = await store.server.reader.changes_since(ChangesSince(since=start, limit=1000))
    for each in page.commits:
        for change in each.changes:
            assert leaves.get(change.path) == change.old
            if change.value is None:
                del leaves[change.path]
            else:
                leaves[change.path] = change.value
    assert leaves == await store.leaves()


async def _one_step(store: Store, model: Model, step: tuple[str, Any, Any]) -> None:
    match step:
        case ("apply", branch, changes):
            expected = {p: v for p, v in (model.leaves(branch) | changes).items() if v is not None}
            parents = [model.heads[branch]] if branch in model.heads else []
            possible = (branch == "master" or bool(parents)) and not blocked(expected)
            if await _succeeds(store.apply(changes, branch), possible) and expected != model.leaves(branch):
                model.commit(branch, expected, *parents)
        case ("branch", name, start):
            head = model.heads.get(start)
            possible = head is not None and model.heads.get(name, head) == head
            if await _succeeds(store.branch(name, start), possible):
                assert head is not None
                model.heads[name] = head
        case ("delete", name, _):
            done = store.server.delete_branch(DeleteBranch(name=name, author=ME))
            if await _succeeds(done, name != "master"):
                model.heads.pop(name, None)
        case ("merge", branch, into):
            await _merge_step(store, model, branch, into)
        case ("pack", _, _):
            RepackPass(store.path).work(quiet=True)
            store.server.repacked()


async def _merge_step(store: Store, model: Model, branch: str, into: str) -> None:
    theirs, ours = model.heads.get(branch), model.heads.get(into)
    if theirs is None or ours is None:
        await _succeeds(store.merge(branch, into), possible=False)
        return
    base = model.base(ours, theirs)
    if base is None:
        return  # criss-cross: which base libgit2 takes is its own affair
    result = merged(base, model.leaves(into), model.leaves(branch))
    known = theirs == ours or theirs in model.commits[ours][1]
    if await _succeeds(store.merge(branch, into), known or result is not None) and not known:
        assert result is not None
        model.commit(into, result, ours, theirs)


async def _succeeds(work: Any, possible: bool) -> bool:
    try:
        await work
    except JitsuError:
        assert not possible
        return False
    assert possible
    return True
