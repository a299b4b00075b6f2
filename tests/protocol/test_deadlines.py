"""Deadlines behave as a plain table of them would, and find the earliest without looking at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.deadlines import MIN_STALE, Deadlines
from tests.support.work import bytes_kept

KEYS = st.sampled_from("abcde")
TIMES = st.integers(0, 20).map(float)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, TIMES),
        st.tuples(st.just("discard"), KEYS, TIMES),
        st.tuples(st.just("pop"), KEYS, TIMES),
    )
)


@given(STEPS)
def test_deadlines_behave_like_a_plain_table(steps: list[tuple[str, str, float]]) -> None:
    deadlines, table = Deadlines[str](), dict[str, float]()
    for what, key, at in steps:
        if what == "set":
            deadlines.set(key, at)
            table[key] = at
        elif what == "discard":
            deadlines.discard(key)
            table.pop(key, None)
        elif (popped := deadlines.pop_due(at)) is None:
            assert all(due > at for due in table.values())
        else:
            assert table[popped] == min(table.values()) <= at
            del table[popped]
        assert len(deadlines) == len(table)
        assert all(key in deadlines for key in table)
        earliest = deadlines.earliest()
        assert (None if earliest is None else earliest[1]) == min(table.values(), default=None)


def test_deadlines_that_have_passed_are_popped_earliest_first() -> None:
    deadlines = Deadlines[int]()
    for n in (3, 1, 4, 1, 5, 9, 2, 6):
        deadlines.set(n, float(n))
    assert [deadlines.pop_due(5.0) for _ in range(6)] == [1, 2, 3, 4, 5, None]
    assert deadlines.earliest() == (6, 6.0)


def test_a_deadline_that_is_moved_often_needs_no_more_memory() -> None:
    deadlines = Deadlines[str]()

    def move() -> None:
        for n in range(10_000):
            deadlines.set("a", float(n))

    assert bytes_kept(move) < 200 * MIN_STALE
    assert deadlines.earliest() == ("a", 9_999.0)
