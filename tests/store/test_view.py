"""What readers of master see while changes are on their way and statistics wait."""

from __future__ import annotations

import pytest

from jitsu_store.git.branches import is_branch_name
from jitsu_store.rules import view as rules
from jitsu_store.rules.batch import Standing
from jitsu_store.rules.scratch import ScratchBranches
from jitsu_store.rules.statistics import PendingStatistics
from jitsu_store.rules.validate import State
from jitsu_store.rules.view import View

LEAVES = {"jitsu/vm/a/x": "1", "jitsu/vm/b/x": "2", "jitsu/vm/c/x": "3", "jitsu/stats/a/total_starts": "1"}


class Seen:
    """A view of a small tree, with what is behind it."""

    def __init__(self) -> None:
        self.standing = Standing(State(LEAVES), {}, ScratchBranches())
        self.statistics = PendingStatistics()
        self.view = View(self.standing, self.statistics)

    def change(self, path: str, value: str | None) -> None:
        """Have a change on its way to the disk."""
        tree = self.standing.state.tree
        self.standing.hidden.put({path: tree.get(path)})
        tree.put({path: value})

    def pages(self, prefix: str, limit: int) -> list[list[str]]:
        found, after = [], ""
        while True:
            page = self.view.page(prefix, after, limit)
            found.append(sorted(page.leaves))
            after = page.upto
            if not after:
                return found


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_change_on_its_way_is_not_seen_in_any_answer(seen: Seen) -> None:
    seen.change("jitsu/vm/a/x", "new")
    seen.change("jitsu/vm/b/x", None)
    seen.change("jitsu/vm/d/x", "4")
    assert seen.view.below("") == LEAVES
    assert [seen.view.value(f"jitsu/vm/{vm}/x") for vm in "abd"] == ["1", "2", None]
    assert seen.pages("jitsu/vm", 1) == [["jitsu/vm/a/x"], ["jitsu/vm/b/x"], ["jitsu/vm/c/x"], []]
    seen.standing.hidden.clear()
    assert seen.pages("jitsu/vm", 2) == [["jitsu/vm/a/x", "jitsu/vm/c/x"], ["jitsu/vm/d/x"]]


def test_statistics_that_wait_are_seen_at_once(seen: Seen) -> None:
    seen.statistics.record({"jitsu/stats/a/total_starts": "2", "jitsu/stats/b/total_starts": "1"}, "vmd")
    assert seen.view.value("jitsu/stats/a/total_starts") == "2"
    assert seen.view.below("jitsu/stats") == {"jitsu/stats/a/total_starts": "2", "jitsu/stats/b/total_starts": "1"}
    assert seen.pages("jitsu/stats", 1) == [["jitsu/stats/a/total_starts"], ["jitsu/stats/b/total_starts"]]


def test_a_page_is_full_by_bytes_too_and_a_vm_that_fills_one_alone_is_left_out(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "PAGE_BYTES", 30)
    assert seen.pages("jitsu/vm", 100) == [["jitsu/vm/a/x", "jitsu/vm/b/x"], ["jitsu/vm/c/x"]]
    seen.standing.state.tree.put({"jitsu/vm/b/x": "2" * 100})
    assert seen.view.page("jitsu/vm", "a", 100).left_out == {"b": 112}
    assert seen.pages("jitsu/vm", 100) == [["jitsu/vm/a/x"], ["jitsu/vm/c/x"]]


@pytest.mark.parametrize("name", ["master", "a/b", "é", "a-b", "a.b", "@", "a@b", "x{y}", "a.locked"])
def test_names_that_branches_may_have(name: str) -> None:
    assert is_branch_name(name)


REFUSED = ["", "-a", "a b", "a..b", ".a", "a/.b", "a.", "a/", "/a", "a//b", "a.lock", "a.lock/b", "a~", "a^", "a:b"]
REFUSED += ["a?", "a*", "a[b", "a\\b", "a@{b", "a\x7f", "a\u200cb", "a\n"]


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_git_refuses(name: str) -> None:
    assert not is_branch_name(name)
