from __future__ import annotations

from jitsu_vmd.rules.backoff import FIRST_S, LIMIT_S, STABLE_S, Backoff


def test_the_wait_doubles_up_to_a_limit() -> None:
    backoff, now, waits = Backoff(), 0.0, []
    for _ in range(12):
        backoff.failed(now)
        waits.append(backoff.wait(now))
        now = backoff.retry_at
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == LIMIT_S
    for _ in range(2000):
        backoff.failed(now)
    assert backoff.wait(now) == LIMIT_S


def test_being_ready_for_a_while_forgives_and_being_ready_for_a_moment_does_not() -> None:
    backoff = Backoff()
    backoff.failed(0.0)
    backoff.ready(2.0)
    backoff.failed(2.0 + STABLE_S)
    assert backoff.failures == 1
    backoff.ready(30.0)
    assert backoff.wait(30.0) == 0.0
    backoff.failed(31.0)
    assert backoff.failures == 2
