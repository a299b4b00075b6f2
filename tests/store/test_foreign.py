"""What another repository may bring: each object on its own, without a repository."""

from __future__ import annotations

import pytest

from jitsu_store.git.objects import LARGE_BYTES, MAX_DEPTH, Id, ObjectKind
from jitsu_store.rules import foreign
from jitsu_store.rules.foreign import Checker, ForeignError, Measure

BLOB, TREE, COMMIT = b"b" * 20, b"t" * 20, b"c" * 20
KINDS = {BLOB: ObjectKind.BLOB, TREE: ObjectKind.TREE, COMMIT: ObjectKind.COMMIT}
WHO = b"A <a@example.org> 1700000000 +0000\n"


def entry(name: bytes, id: Id = BLOB, mode: bytes = b"100644") -> bytes:
    return mode + b" " + name + b"\0" + id


def test_a_tree_with_blobs_and_trees_in_order_is_accepted() -> None:
    checked = Checker(KINDS.get).tree(entry(b"a") + entry(b"b", TREE, b"40000") + entry(b"c"))
    assert list(checked.entries) == [(BLOB, False), (TREE, True), (BLOB, False)]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (entry(b"b") + entry(b"a"), "not in order"),
        (entry(b"a") + entry(b"a", TREE, b"40000"), "not in order"),
        (entry(b"a", mode=b"120000"), "not well formed"),
        (entry(b"a")[:-1], "not well formed"),
        (entry(b"a") + b"x", "not well formed"),
        (entry(b".git"), "has a path with the part"),
        (entry(b"\xff"), "is not UTF-8"),
        (entry(b"a", b"x" * 20), "which is missing"),
        (entry(b"a", TREE), "which is a tree"),
        (entry(b"a", BLOB, b"40000"), "which is a blob"),
    ],
)
def test_g6_a_tree_that_git_would_complain_about_is_refused(tree: bytes, reason: str) -> None:
    with pytest.raises(ForeignError, match=reason):
        Checker(KINDS.get).tree(tree)


def test_a_commit_is_accepted_only_as_git_writes_it() -> None:
    whole = b"tree %s\nparent %s\nauthor %scommitter %s\nWhy\n" % (
        TREE.hex().encode(),
        COMMIT.hex().encode(),
        WHO,
        WHO,
    )
    Checker(KINDS.get).commit(whole)
    for wrong in (whole.replace(b"author", b"writer"), whole.replace(b"1700000000", b"01"), whole + b"\0"):
        with pytest.raises(ForeignError, match="not well formed"):
            Checker(KINDS.get).commit(wrong)
    with pytest.raises(ForeignError, match="which is a blob"):
        Checker(KINDS.get).commit(whole.replace(TREE.hex().encode(), BLOB.hex().encode()))


def test_an_object_that_is_too_large_or_of_another_kind_is_refused_before_it_is_read() -> None:
    checker = Checker(KINDS.get)
    checker.size(ObjectKind.BLOB, foreign.MAX_BLOB_BYTES)
    with pytest.raises(ForeignError, match="at most"):
        checker.size(ObjectKind.BLOB, foreign.MAX_BLOB_BYTES + 1)
    with pytest.raises(ForeignError, match="which a store never has"):
        checker.size(ObjectKind.TAG, 1)


def test_a_version_of_a_large_tree_is_checked_only_where_it_differs() -> None:
    count = LARGE_BYTES // 30
    raw = b"".join(entry(b"%05d" % number) for number in range(count))
    checker = Checker(KINDS.get)
    before = checker.tree(raw)
    at = before.places[7]
    new = raw[:at] + BLOB + raw[at + 20 :]
    after = checker.next_version(new, before, [(at, at + 20)])
    assert after is not None
    assert list(after.entries) == list(before.entries)
    assert checker.next_version(new, before, [(at - 3, at + 20)]) is None, "a name may have changed"
    with pytest.raises(ForeignError, match="which is missing"):
        checker.next_version(raw[:at] + b"x" * 20 + raw[at + 20 :], before, [(at, at + 20)])


def test_g9_a_tree_is_measured_as_if_each_leaf_were_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MAX_LEAVES", 8)
    monkeypatch.setattr(foreign, "MAX_TREE_BYTES", 1000)
    trees = {b"0": [(BLOB, False)] * 2, **{b"%d" % n: [(b"%d" % (n - 1), True)] * 2 for n in range(1, 5)}}
    assert Measure(trees.__getitem__, lambda _: 10).tree(b"2") == foreign.Extent(8, 80, 3)
    with pytest.raises(ForeignError, match="more than 8 leaves"):
        Measure(trees.__getitem__, lambda _: 10).tree(b"3")
    with pytest.raises(ForeignError, match="more than 1000 bytes"):
        Measure(trees.__getitem__, lambda _: 600).tree(b"1")
    deep = {b"%d" % n: [(b"%d" % (n + 1), True)] for n in range(MAX_DEPTH + 2)}
    with pytest.raises(ForeignError, match="levels"):
        Measure(deep.__getitem__, lambda _: 1).tree(b"0")
