"""Decisions about changes, one after the other, over a history in memory: no loop, no disk, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from jitsu_protocol.messages import MASTER, Applied, Apply, Change, CreateBranch, DeleteBranch, Merge
from jitsu_protocol.model.errors import BadRequest, Conflict, Invalid, JitsuError, NotFound, Refused
from jitsu_protocol.model.vm import to_tree
from jitsu_store.git.steps import at_once
from jitsu_store.rules.batch import REQUESTS_KEPT, Batch, Landed, Standing
from jitsu_store.rules.scratch import LEASE_S, ScratchBranches
from jitsu_store.rules.statistics import PendingStatistics
from jitsu_store.rules.validate import State
from jitsu_store.rules.view import View
from tests.support.store import ME
from tests.support.store_memory import MemoryDisk, MemoryStorage
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_store.git.steps import Steps

T = TypeVar("T")

NOW = 1_700_000_000.5
WWW, API = make_vm("www", "127.0.1.1"), make_vm("api", "127.0.1.2")


class Book:
    """What has landed, and a batch on top of it."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.history = MemoryStorage(self.disk).repository()
        heads = self.history.branches()
        leaves = self.history.leaves(heads.get(MASTER)) if MASTER in heads else {}
        self.standing = Standing(State(leaves), heads, ScratchBranches())
        self.standing.look_back(self.history)
        self.batch = Batch(self.standing, self.history)
        self.view = View(self.standing, PendingStatistics())

    def apply(self, changes: Mapping[str, str | None], branch: str = MASTER, who: str = ME, **more: Any) -> Applied:
        listed = [Change(path=path, value=value) for path, value in changes.items()]
        more.setdefault("request", "")
        asked = Apply(changes=listed, author=who, message="Why", branch=branch, **more)
        return at_once(self.batch.apply(asked, NOW))

    def merge(self, branch: str, into: str = MASTER, who: str = ME) -> Applied:
        return at_once(self.batch.merge(Merge(branch=branch, into=into, author=who, request=""), None, NOW))

    def create(self, name: str, *, scratch: bool = False, now: float = NOW) -> Applied:
        return self.batch.create_branch(CreateBranch(name=name, author=ME, scratch=scratch), now)

    def delete(self, name: str, who: str = ME) -> None:
        self.batch.delete_branch(DeleteBranch(name=name, author=who))

    def land(self) -> list[Landed]:
        """Land the batch whole, and begin another one."""
        moves = self.batch.moves()
        self.history.land(self.history.staged(), moves)
        self.history.landed()
        self.standing.hidden.clear()
        landed = self.standing.land(self.batch, {branch: new for branch, (_, new) in moves.items()})
        self.batch = Batch(self.standing, self.history)
        return landed

    def fail(self) -> None:
        """Have the disk refuse the batch, and begin another one."""
        at_once(self.batch.undo_steps())
        self.standing.hidden.clear()
        self.history.drop_staged()
        self.standing.land(self.batch, {}, is_whole=False)
        self.batch = Batch(self.standing, self.history)


@pytest.fixture
def book() -> Book:
    return Book()


def test_changes_of_one_batch_are_made_on_top_of_each_other(book: Book) -> None:
    first = book.apply({"a": "1"})
    second = book.apply({"a": "2", "b": "1"})
    landed = book.land()
    assert [(each.commit, dict(each.changes)) for each in landed] == [
        (first.commit, {"a": (None, "1")}),
        (second.commit, {"a": ("1", "2"), "b": (None, "1")}),
    ]
    record = book.history.commit(bytes.fromhex(second.commit))
    assert [parent.hex() for parent in record.parents] == [first.commit]


def test_readers_see_nothing_of_a_batch_before_it_has_landed(book: Book) -> None:
    book.apply({"a": "1"})
    book.land()
    book.apply({"a": "2", "b": "1"})
    assert (book.view.below(""), book.view.value("a"), book.view.value("b")) == ({"a": "1"}, "1", None)
    assert book.view.page("", "", 10).leaves == {"a": "1"}
    book.land()
    assert book.view.below("") == {"a": "2", "b": "1"}


def test_a_batch_that_the_disk_refuses_leaves_everything_as_it_was(book: Book) -> None:
    book.apply(to_tree(WWW))
    book.land()
    before, serial, heads = book.view.below(""), book.standing.serial, dict(book.standing.heads)
    book.apply(to_tree(API), request="r1")
    book.apply({"a": "1"})
    book.create("trial", scratch=True)
    book.fail()
    assert (book.view.below(""), book.standing.serial, book.standing.heads) == (before, serial, heads)
    assert book.standing.state.tree.below("") == before
    assert "trial" not in book.standing.scratch
    assert book.apply(to_tree(API), request="r1").changed > 0, "it has not been carried out yet"


def test_a_batch_that_the_disk_took_in_part_keeps_that_part(book: Book) -> None:
    book.apply({"a": "1"})
    book.land()
    book.create("kept", scratch=True)
    book.create("lost", scratch=True)
    head = book.batch.heads["kept"]
    landed = book.standing.land(book.batch, {"kept": head}, is_whole=False)
    assert [each.branch for each in landed] == ["kept"]
    assert ("kept" in book.standing.scratch, "lost" in book.standing.scratch) == (True, False)
    assert set(book.standing.heads) == {MASTER, "kept"}


def test_a_request_is_carried_out_once_in_a_batch_after_it_and_after_a_restart(book: Book) -> None:
    first = book.apply({"a": "1"}, request="r1")
    assert book.apply({"a": "other"}, request="r1") == first
    book.land()
    assert book.apply({"a": "other"}, request="r1") == first
    again = Book(book.disk)
    assert again.apply({"a": "other"}, request="r1").commit == first.commit
    assert again.view.value("a") == "1"


def test_only_so_many_requests_are_remembered(book: Book) -> None:
    for number in range(REQUESTS_KEPT + 1):
        book.apply({"a": str(number)}, request=f"r{number}")
    book.land()
    assert (book.standing.earlier("r0"), book.standing.earlier("r1") is None) == (None, False)


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"base": "12" * 20}, Conflict, "master has changed: it is at"),
        ({"expect": {"a": "2"}}, Conflict, 'a is "1", not "2"'),
        ({"expect": {"b": "2"}}, Conflict, 'b is nothing, not "2"'),
        ({"branch": "none"}, NotFound, "there is no branch 'none'"),
        ({"who": "service:vmd"}, Refused, "a service writes only its statistics"),
        ({"who": f"vm:{WWW.uuid}"}, Refused, "a VM writes only on branches that begin with its uuid"),
    ],
)
def test_what_a_request_expects_and_may_do_is_checked_first(
    book: Book, more: dict[str, Any], error: type[JitsuError], text: str
) -> None:
    book.apply({"a": "1"})
    book.land()
    with pytest.raises(error, match=text):
        book.apply({"c": "1"}, **more)
    assert (book.batch.moves(), book.view.below("")) == ({}, {"a": "1"})


def test_what_is_there_already_makes_no_commit(book: Book) -> None:
    book.apply({"a": "1"})
    book.land()
    head = book.standing.heads[MASTER].hex()
    assert book.apply({"a": "1"}, base=head, expect={"a": "1"}) == Applied(commit=head, changed=0)
    assert book.batch.moves() == {}


@pytest.mark.parametrize("branch", [MASTER, "try"])
def test_a_change_that_clashes_is_taken_back_and_the_next_one_is_decided_without_it(book: Book, branch: str) -> None:
    book.apply(to_tree(WWW))
    book.create("try")
    book.land()
    with pytest.raises(Invalid, match=r"127\.0\.1\.1 belongs to the VM www already"):
        book.apply(to_tree(make_vm("other", "127.0.1.1")), branch)
    book.apply(to_tree(API), branch)
    book.land()
    assert book.history.leaves(book.standing.heads[branch]) == to_tree(WWW) | to_tree(API)
    assert book.view.below("") == (to_tree(WWW) | (to_tree(API) if branch == MASTER else {}))


def test_a_branch_is_judged_by_what_it_has_and_not_by_what_master_has(book: Book) -> None:
    book.apply({"a": "1"})
    book.create("try")
    book.land()
    book.apply(to_tree(WWW))
    book.apply(to_tree(make_vm("other", "127.0.1.1")), "try")
    book.land()
    with pytest.raises(Invalid, match="belongs to the VM"):
        book.merge("try")
    assert book.view.below("jitsu/vm") == to_tree(WWW)


def test_a_merge_takes_what_one_side_changed_and_refuses_what_both_did(book: Book) -> None:
    book.apply({"a": "1", "b": "1"})
    book.create("try")
    book.land()
    book.apply({"a": "2"}, "try")
    book.apply({"b": "2"})
    merged = book.merge("try")
    assert merged.changed == 1
    book.land()
    record = book.history.commit(bytes.fromhex(merged.commit))
    assert (len(record.parents), record.message) == (2, "Merge try into master\n")
    assert book.merge("try").changed == 0, "it has been merged"
    book.apply({"a": "3"}, "try")
    book.apply({"a": "4"})
    with pytest.raises(Conflict, match="have both changed"):
        book.merge("try")


@pytest.mark.parametrize("landed", [0, 1, 2, 3])
def test_branches_that_have_not_landed_yet_are_merged_like_any(book: Book, landed: int) -> None:
    steps: tuple[Callable[[], object], ...] = (
        lambda: book.apply({"a": "1", "b": "1", "c": "1"}),
        lambda: (book.create("try"), book.apply({"a": "2"}, "try"), book.apply({"b": "2"})),
        lambda: (book.merge("try"), book.apply({"a": "3"}, "try"), book.apply({"c": "3"})),
        lambda: book.merge("try"),
    )
    for number, step in enumerate(steps):
        step()
        if number < landed:
            book.land()
    book.land()
    assert book.view.below("") == {"a": "3", "b": "2", "c": "3"}


def test_the_serial_grows_with_the_zones_alone_and_never_falls(book: Book) -> None:
    book.apply({"a": "1"})
    assert book.batch.serial == 1
    book.apply(to_tree(WWW))
    assert book.batch.serial == int(NOW)
    book.apply({f"jitsu/vm/{WWW.uuid}/response_delay": "0.2"})
    assert book.batch.serial == int(NOW) + 1, "the clock has not moved"
    at_once(book.batch.record({"jitsu/stats/v/total_starts": "1"}, "vmd", NOW))
    landed = book.land()
    assert [each.serial for each in landed] == [1, int(NOW), int(NOW) + 1, int(NOW) + 1]
    assert Book(book.disk).standing.serial == int(NOW) + 1


def test_a_branch_is_created_where_another_one_is_and_nowhere_else(book: Book) -> None:
    head = book.apply({"a": "1"}).commit
    book.land()
    assert book.create("x/y").commit == head
    with pytest.raises(BadRequest, match="cannot be a file and a directory at once"):
        book.create("x")
    with pytest.raises(BadRequest, match="cannot be the name of a branch"):
        book.create("a b")
    with pytest.raises(BadRequest, match="cannot be a scratch branch"):
        book.create(MASTER, scratch=True)
    book.apply({"a": "2"}, "x/y")
    with pytest.raises(Conflict, match="there is a branch x/y already"):
        book.create("x/y")


def test_master_is_never_deleted_and_what_is_not_there_is_no_mistake(book: Book) -> None:
    book.apply({"a": "1"})
    book.create("try")
    book.land()
    with pytest.raises(Refused, match="it is not deleted"):
        book.delete(MASTER)
    with pytest.raises(Refused, match="a VM writes only on branches"):
        book.delete("try", f"vm:{WWW.uuid}")
    book.delete("nothing")
    book.delete("try")
    assert [(each.branch, each.commit) for each in book.land()] == [("try", "")]
    assert set(book.standing.heads) == {MASTER}


def test_an_old_scratch_branch_goes_unless_it_is_asked_for_again_just_now(book: Book) -> None:
    book.apply({"a": "1"})
    book.land()
    for name in ("old", "renewed"):
        book.create(name, scratch=True)
    book.land()
    book.create("renewed", scratch=True, now=NOW + LEASE_S)
    for name in ("old", "renewed"):
        book.batch.delete_old(name, NOW + LEASE_S)
    book.land()
    assert set(book.standing.heads) == {MASTER, "renewed"}
    assert book.batch.scratch_wanted().since() == {"renewed": NOW + LEASE_S}


def test_statistics_that_are_in_the_tree_already_make_no_commit(book: Book) -> None:
    values = {"jitsu/stats/v/total_starts": "1"}
    at_once(book.batch.record(values, "vmd", NOW))
    book.land()
    at_once(book.batch.record(values, "vmd", NOW))
    assert book.batch.moves() == {}
    at_once(book.batch.record({"jitsu/stats/v/total_starts/x": "1"}, "vmd", NOW))
    assert book.batch.moves() == {}, "no value can be below another one"


def test_a_long_change_is_decided_in_steps(book: Book) -> None:
    listed = [Change(path=f"a/{number}", value="1") for number in range(5000)]
    steps: Steps[Applied] = book.batch.apply(Apply(changes=listed, author=ME, message="", request=""), NOW)
    assert sum(1 for _ in steps) > 20
