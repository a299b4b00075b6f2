"""Which packfiles become one, and which earlier tree a tree is stored as a difference from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_store.git.objects import LARGE_BYTES
from jitsu_store.rules.repack_plan import (
    FAN_IN,
    MAX_CHAIN,
    MAX_MERGED_BYTES,
    MAX_MERGED_OBJECTS,
    Bases,
    Packfile,
    choose,
)

if TYPE_CHECKING:
    from jitsu_store.git.objects import Id


def id_of(number: int) -> Id:
    return number.to_bytes(20, "big")


def tree(*versions: int) -> bytes:
    """Return a small tree of files, each in a version."""
    return b"".join(b"100644 file%d\0%s" % (n, id_of(version)) for n, version in enumerate(versions))


def large(version: int, filled: bytes = b"\0") -> bytes:
    """Return a version of a large tree; only its end differs."""
    return filled * LARGE_BYTES + version.to_bytes(4, "big")


def test_a_merge_is_bounded_in_objects_and_in_bytes() -> None:
    many = [Packfile(f"p{n}", 20_000, n) for n in range(40)]
    assert choose(many, quiet=False) == many[: MAX_MERGED_OBJECTS // 20_000]
    heavy = [Packfile(f"p{n}", 6, n, size=MAX_MERGED_BYTES // 20) for n in range(40)]
    assert choose(heavy, quiet=False) == heavy[:20]
    assert choose([Packfile("huge", 6, 0, size=MAX_MERGED_BYTES), Packfile("small", 6, 1)], quiet=True) == []
    too_much = [Packfile(f"p{n}", 6, n, size=MAX_MERGED_BYTES // 2 - 1) for n in range(3)]
    assert choose(too_much, quiet=True) == too_much[:2]


def test_a_small_tree_is_based_on_its_version_in_an_earlier_source_and_so_is_the_next() -> None:
    bases = Bases()
    assert bases.base_for(id_of(1), tree(1, 1, 1, 1), source=0) is None
    assert bases.base_for(id_of(2), tree(1, 1, 1, 2), source=1) == id_of(1)
    assert bases.base_for(id_of(3), tree(1, 1, 1, 3), source=2) == id_of(2)
    assert bases.base_for(id_of(4), tree(1, 1, 1, 4), source=2) == id_of(3), "which its own source holds whole"
    assert bases.base_for(id_of(5), tree(1, 1, 1, 5), source=3) == id_of(3), "only one of each source is a base"


def test_a_tree_that_has_less_than_half_in_common_with_another_is_not_its_next_version() -> None:
    bases = Bases()
    assert bases.base_for(id_of(1), tree(1, 1, 1, 1), source=0) is None
    assert bases.base_for(id_of(2), tree(1, 2, 2, 2), source=1) is None
    assert bases.base_for(id_of(3), tree(1, 3, 2, 2), source=2) == id_of(2)


def test_a_chain_of_small_trees_ends_after_as_many_sources_as_make_a_merge() -> None:
    bases = Bases()
    found = [bases.base_for(id_of(n), tree(0, 0, 0, n), source=n) for n in range(FAN_IN + 3)]
    assert [n for n, base in enumerate(found) if base is None] == [0, FAN_IN + 1]
    assert found[FAN_IN + 2] == id_of(FAN_IN + 1)


def test_the_next_version_of_a_large_tree_is_based_on_the_one_that_was_copied_last() -> None:
    bases = Bases()
    assert bases.base_for(id_of(1), large(1), source=0) is None
    bases.copied(id_of(2), id_of(1))
    bases.copied(id_of(8), id_of(7))  # of a tree that is not known
    assert bases.base_for(id_of(3), large(3), source=1) == id_of(2)
    assert bases.base_for(id_of(4), large(4, b"x"), source=1) is None, "another tree"


def test_after_the_longest_chain_a_large_tree_is_based_on_a_much_earlier_version() -> None:
    bases = Bases()
    found = [bases.base_for(id_of(n), large(n), source=n) for n in range(MAX_CHAIN + 3)]
    assert found[: MAX_CHAIN + 1] == [None, *map(id_of, range(MAX_CHAIN))]
    assert found[MAX_CHAIN + 1 :] == [id_of(0), id_of(MAX_CHAIN + 1)]
