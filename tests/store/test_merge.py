"""The rules of merging, over every pair of edits."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_store.rules.merge import Conflicting, merge

IP = "jitsu/vm/u/ip"
COUNTER = "jitsu/stats/u/total_starts"
STAMP = "jitsu/stats/u/dns/a.b/last_request_ts"


def merged(path: str, base: str | None, ours: str | None, theirs: str | None) -> str | Conflicting | None:
    """Return what stands at the path after the merge, or the conflict."""
    their_changes = {} if theirs == base else {path: (base, theirs)}
    result = merge(their_changes, {path: ours}.get)
    if result.conflicts:
        assert result.changes == {}
        return result.conflicts[0]
    return result.changes.get(path, ours)


@pytest.mark.parametrize("path", [IP, COUNTER, STAMP, "elsewhere/x"])
def test_what_one_side_changed_is_taken_from_that_side(path: str) -> None:
    for base, new in product((None, "1", "2"), repeat=2):
        assert merged(path, base, base, new) == new
        assert merged(path, base, new, base) == new
        assert merged(path, base, new, new) == new


def test_configuration_that_both_changed_is_a_conflict_with_all_three_values() -> None:
    for base, ours, theirs in product((None, "1", "2", "3"), repeat=3):
        if base != ours and base != theirs and ours != theirs:
            assert merged(IP, base, ours, theirs) == Conflicting(IP, base, ours, theirs)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_counters_add_up(base: int, more: int, yet_more: int) -> None:
    result = merged(COUNTER, str(base), str(base + more), str(base + yet_more))
    if more and yet_more and more != yet_more:
        assert result == str(base + more + yet_more)


def test_a_counter_that_both_began_and_one_that_is_no_number() -> None:
    assert merged(COUNTER, None, "2", "3") == "5"
    assert merged(COUNTER, "1", "x", "3") == Conflicting(COUNTER, "1", "x", "3")


def test_the_later_timestamp_wins_whatever_its_length() -> None:
    assert merged(STAMP, "1.0", "9.5", "10.25") == "10.25"
    assert merged(STAMP, "1.0", "10.25", "9.5") == "10.25"


def test_a_statistic_that_one_side_removed_and_the_other_changed_stays() -> None:
    assert merged(COUNTER, "1", None, "3") == "3"
    assert merged(COUNTER, "1", "3", None) == "3"
