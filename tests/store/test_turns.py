"""A change of many VMs is judged in pieces: others are answered in between, and see nothing of it before it lands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import List
from jitsu_protocol.model.errors import Invalid, NotFound
from jitsu_protocol.model.vm import to_tree
from jitsu_store.rules.hidden import Hidden
from jitsu_store.rules.tree import LeafTree, is_below
from jitsu_store.wires.repository import Repository
from tests.support.store import Store, running
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_store.rules.tree import Changes

pytestmark = pytest.mark.wires

VMS = 300
ONE = make_vm("one", "127.0.1.1")
MANY = {
    path: value
    for number in range(VMS)
    for path, value in to_tree(make_vm(f"n{number}", f"127.1.{number // 200}.{number % 200}")).items()
}
ADDRESSES = [path for path in MANY if path.endswith("/ip")]
"""Those that count; each VM has its address in its configuration too."""
CLASHING = MANY | to_tree(make_vm("zz", "127.0.1.1"))


@pytest.fixture
def landings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows when what has been judged is on its way to the disk."""
    begun: list[object] = []
    land = Repository.land

    def noted(self: Repository, *arguments: Any) -> None:
        begun.append(arguments)
        land(self, *arguments)

    monkeypatch.setattr(Repository, "land", noted)
    return begun


async def paged(store: Store) -> dict[str, str]:
    """Return the VMs' leaves as services read them, without giving up the loop's turn."""
    leaves: dict[str, str] = {}
    after = ""
    while True:
        page = await store.server.reader.list(List(prefix="jitsu/vm", after=after, limit=1000))
        leaves |= page.leaves
        after = page.upto
        if not after:
            return leaves


async def turns_of_others(store: Store, judging: asyncio.Task[str], landings: list[object]) -> int:
    """Return how often somebody else had a turn until a change was judged; each sees what was there before."""
    before, turns, landed = await store.leaves(), 0, len(landings)
    while not judging.done() and len(landings) == landed:
        turns += 1
        assert await store.leaves() == before
        if turns % 10 == 0:
            assert await paged(store) == {path: value for path, value in before.items() if is_below(path, "jitsu/vm")}
            with pytest.raises(NotFound):
                await store.get(f"jitsu/vm/{ONE.uuid}/nothing")
        await asyncio.sleep(0)
    return turns


async def test_others_have_many_turns_while_a_change_of_many_vms_is_judged(
    tmp_path: Path, landings: list[object]
) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(ONE)))
        without = {path: value for path, value in MANY.items() if path not in ADDRESSES}
        steps: list[tuple[Changes, dict[str, str]]] = [
            (dict(MANY), MANY | to_tree(ONE)),
            (dict.fromkeys(ADDRESSES), without | to_tree(ONE)),
            (dict.fromkeys(without), to_tree(ONE)),
        ]
        for changes, after in steps:
            judging = asyncio.create_task(store.apply(changes))
            turns = await turns_of_others(store, judging, landings)
            await judging
            assert turns > len(changes) // 100
            assert await store.leaves() == await paged(store) == after
        assert store.git("ls-tree", "-r", "--name-only", "master").splitlines() == sorted(to_tree(ONE))


@pytest.mark.parametrize("branch", ["master", "other"])
async def test_a_change_that_is_refused_in_the_end_leaves_nothing_behind(
    tmp_path: Path, landings: list[object], branch: str
) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(ONE)))
        await store.branch("other")
        judging = asyncio.create_task(store.apply(dict(CLASHING), branch))
        turns = await turns_of_others(store, judging, landings)
        with pytest.raises(Invalid, match=r"127.0.1.1 belongs to the VM"):
            await judging
        assert turns > len(CLASHING) // 100
        assert await store.leaves() == to_tree(ONE)
        await store.apply(dict(MANY), branch)
        assert await store.leaves(branch) == MANY | to_tree(ONE)
        assert (await paged(store) == to_tree(ONE)) == (branch == "other")


paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
values = st.none() | st.sampled_from("12")


@given(st.lists(st.dictionaries(paths, values, max_size=3), max_size=4), st.integers(0, 4), paths | st.just(""))
def test_what_is_hidden_is_found_below_each_path_with_its_first_value(
    puts: list[dict[str, str | None]], dropped: int, prefix: str
) -> None:
    hidden, model = Hidden(), dict[str, str | None]()
    for number, old in enumerate(puts):
        new = hidden.put(old)
        assert set(new) == old.keys() - model.keys()
        model = old | model
        if number < dropped:
            hidden.drop(new)
            model = {path: value for path, value in model.items() if path not in new}
    assert hidden.below(prefix) == {path: value for path, value in model.items() if is_below(path, prefix)}
    start = f"{prefix}/" if prefix else ""
    names = {path.removeprefix(start).split("/")[0] for path in model if path.startswith(start)}
    assert names <= set(hidden.names_below(prefix))
    hidden.clear()
    assert (hidden.below(""), list(hidden.names_below(""))) == ({}, [])


def test_names_are_sorted_anew_when_one_comes_or_goes() -> None:
    held = LeafTree({"a/c": "1", "a/b/x": "1"})
    assert held.sorted_names_below("a") == ["b", "c"]
    held.put({"a/a": "1", "a/c": None})
    assert held.sorted_names_below("a") == ["a", "b"]
    held.put({"a/b/x": None})
    assert held.sorted_names_below("a") == ["a"]
    assert held.sorted_names_below("nothing") == []
