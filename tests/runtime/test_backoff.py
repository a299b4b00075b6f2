"""How long a child that has died is left alone before it is started again."""

from __future__ import annotations

from jitsu_runtime.supervise import MAX_BACKOFF_S, STABLE_S, Child


def test_the_first_restart_is_immediate_and_each_further_one_waits_twice_as_long_up_to_a_limit() -> None:
    child = Child("one", "dns")
    assert [child.backoff(1.0) for _ in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, MAX_BACKOFF_S, MAX_BACKOFF_S]


def test_a_child_that_was_stable_is_restarted_at_once_again() -> None:
    child = Child("one", "dns")
    child.backoff(1.0)
    assert child.backoff(1.0) > 0.0
    child.started_at = 100.0
    assert child.backoff(100.0 + STABLE_S) == 0.0
