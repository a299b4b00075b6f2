"""Until when answers are within the TTL that they had."""

from __future__ import annotations

from jitsu_protocol.model.lifetimes import MEMORY_S, AnswerLifetimes


def of(*ttls: int) -> AnswerLifetimes:
    """Return those of a VM that was configured so, one after the other."""
    lifetimes = AnswerLifetimes()
    for ttl in ttls:
        lifetimes.configured(ttl, 0.0)
    return lifetimes


def test_an_answer_is_valid_for_the_ttl_that_it_had() -> None:
    lifetimes = of(30)
    lifetimes.answered(10.0, 30, 10.0)
    lifetimes.configured(1, 11.0)
    lifetimes.answered(12.0, 1, 12.0)
    assert lifetimes.until == 40.0


def test_the_larger_of_the_old_and_the_new_ttl_counts_for_an_answer_without_one() -> None:
    for ttls, longest in (((30, 1), 30), ((1, 30), 30), ((30, 1, 5), 30), ((5,), 5)):
        lifetimes = of(*ttls)
        lifetimes.answered(10.0, None, 10.0)
        assert lifetimes.until == 10.0 + longest


def test_a_lowered_ttl_is_forgotten_when_no_replica_can_answer_with_it() -> None:
    lifetimes = of(30, 1)
    assert lifetimes.longest(MEMORY_S - 1.0) == 30
    assert lifetimes.longest(MEMORY_S) == 1
    lifetimes.answered(MEMORY_S, 30, MEMORY_S)
    assert lifetimes.longest(2 * MEMORY_S - 1.0) == 30, "somebody gave it still"
    long = of(86_400, 1)
    assert long.longest(86_399.0) == 86_400
