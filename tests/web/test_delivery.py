"""The events of one VM on their way to one target, and a target's deliveries of all VMs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.machine import IllegalEvent
from jitsu_web.outbound.rules.delivery import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    Admitted,
    AskAdmission,
    Bury,
    Delivered,
    Delivery,
    DeliveryState,
    Enqueued,
    Evicted,
    Failed,
    ForgetLetter,
    Letter,
    SendLetter,
)
from jitsu_web.outbound.rules.target import LetterEvicted, LetterRecorded, SendEnded, Target, TargetAction

NEVER = float("inf")


def delivery_of(*ids: str, expires_at: float = NEVER) -> Delivery:
    made = Delivery("vm")
    for id in ids:
        made.handle(Enqueued(Letter(id, expires_at)), 0.0)
    return made


def test_the_oldest_event_is_sent_first_and_the_next_one_only_when_it_was_taken() -> None:
    delivery = Delivery("vm")
    assert delivery.handle(Enqueued(Letter("a", NEVER)), 0.0) == [AskAdmission("vm")]
    assert delivery.handle(Enqueued(Letter("b", NEVER)), 0.0) == []
    assert delivery.handle(Admitted(), 0.0) == [SendLetter("vm", "a", 1)]
    assert delivery.handle(Delivered(), 1.0) == [ForgetLetter("a"), AskAdmission("vm")]
    assert delivery.handle(Admitted(), 1.0) == [SendLetter("vm", "b", 1)]
    assert delivery.handle(Delivered(), 2.0) == [ForgetLetter("b")]
    assert delivery.state is DeliveryState.IDLE


def test_a_pause_doubles_with_each_attempt_up_to_a_limit_and_the_order_is_kept() -> None:
    delivery, now = delivery_of("a", "b"), 0.0
    pauses = []
    for attempt in range(1, 13):
        assert delivery.handle(Admitted(), now) == [SendLetter("vm", "a", attempt)]
        assert delivery.handle(Failed("503"), now) == []
        at = delivery.deadline()
        assert at is not None
        pauses.append(at - now)
        assert delivery.tick(at - 0.01) == []
        assert delivery.tick(at) == [AskAdmission("vm")]
        now = at
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == MAX_PAUSE_S


def test_a_target_may_ask_for_a_longer_pause_but_not_for_ever() -> None:
    delivery = delivery_of("a")
    for asked, given_s in [(30.0, 30.0), (1e9, MAX_PAUSE_S)]:
        delivery.handle(Admitted(), 0.0)
        delivery.handle(Failed("429", retry_after_s=asked), 0.0)
        assert delivery.deadline() == given_s
        delivery.tick(given_s)


def test_an_event_that_is_refused_for_good_is_a_dead_letter_and_the_next_has_its_turn() -> None:
    delivery = delivery_of("a", "b")
    delivery.handle(Admitted(), 0.0)
    assert delivery.handle(Failed("410 Gone", is_final=True), 0.0) == [Bury("a", "410 Gone"), AskAdmission("vm")]
    assert delivery.handle(Admitted(), 0.0) == [SendLetter("vm", "b", 1)]


def test_an_event_that_would_be_too_old_at_the_next_attempt_is_a_dead_letter() -> None:
    delivery = delivery_of("a", expires_at=10.0)
    delivery.handle(Admitted(), 10.0 - FIRST_PAUSE_S)
    assert delivery.handle(Failed("refused"), 10.0 - FIRST_PAUSE_S) == [Bury("a", "refused")]
    assert delivery.state is DeliveryState.IDLE


def test_an_event_that_was_evicted_while_it_was_under_way_is_neither_repeated_nor_buried() -> None:
    delivery = delivery_of("a", "b")
    delivery.handle(Admitted(), 0.0)
    assert delivery.handle(Evicted("a"), 0.0) == []
    assert delivery.handle(Failed("503"), 0.0) == [AskAdmission("vm")]
    assert delivery.handle(Admitted(), 0.0) == [SendLetter("vm", "b", 1)]


def test_the_last_event_that_is_evicted_during_a_pause_ends_the_delivery() -> None:
    delivery = delivery_of("a")
    delivery.handle(Admitted(), 0.0)
    delivery.handle(Failed("503"), 0.0)
    delivery.handle(Evicted("a"), 0.0)
    assert delivery.state is DeliveryState.IDLE
    assert delivery.deadline() is None


def test_an_acknowledgement_of_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(IllegalEvent):
        Delivery("vm").handle(Delivered(), 0.0)


def sent(actions: list[TargetAction]) -> list[str]:
    return [each.id for each in actions if isinstance(each, SendLetter)]


def test_a_target_that_is_down_has_a_few_attempts_at_a_time_and_each_vm_has_its_turn() -> None:
    target = Target(slots=2)
    first = [sent(target.handle(LetterRecorded(f"v{n}", Letter(f"{n}", NEVER)), 0.0)) for n in range(5)]
    assert first == [["0"], ["1"], [], [], []]
    assert sent(target.handle(SendEnded("v0", Failed("down")), 0.0)) == ["2"]
    assert sent(target.handle(SendEnded("v1", Failed("down")), 0.0)) == ["3"]
    assert sent(target.handle(SendEnded("v2", Delivered()), 0.5)) == ["4"]
    assert target.deadline() == FIRST_PAUSE_S
    assert sent(target.tick(FIRST_PAUSE_S)) == []
    assert sent(target.handle(SendEnded("v3", Delivered()), 1.0)) == ["0"]
    assert target.waiting() == 3


def test_a_vm_whose_event_is_refused_again_and_again_does_not_delay_the_others() -> None:
    target, now = Target(slots=1), 0.0
    target.handle(LetterRecorded("bad", Letter("x", NEVER)), now)
    target.handle(SendEnded("bad", Failed("500")), now)
    for n in range(20):
        assert sent(target.handle(LetterRecorded("good", Letter(f"{n}", NEVER)), now)) == [f"{n}"]
        assert target.handle(SendEnded("good", Delivered()), now) == [ForgetLetter(f"{n}")]


def test_evicting_what_waits_for_a_slot_leaves_no_slot_taken() -> None:
    target = Target(slots=1)
    target.handle(LetterRecorded("a", Letter("1", NEVER)), 0.0)
    target.handle(LetterRecorded("b", Letter("2", NEVER)), 0.0)
    assert target.handle(LetterEvicted("b", "2"), 0.0) == []
    assert target.handle(LetterEvicted("gone", "3"), 0.0) == []
    assert target.handle(SendEnded("a", Delivered()), 0.0) == [ForgetLetter("1")]
    assert (target.sending, target.deliveries) == (0, {})


@given(st.integers(0, 2**32), st.floats(0.0, 0.9), st.integers(1, 5))
def test_every_event_is_taken_or_buried_and_each_vm_sees_its_own_in_order(seed: int, loss: float, slots: int) -> None:
    chance, target, now = random.Random(seed), Target(slots=slots), 0.0
    waiting: list[SendLetter] = []
    taken: dict[str, list[int]] = {}
    buried: set[str] = set()
    recorded, evicted = 0, set()

    def note(actions: list[TargetAction]) -> None:
        waiting.extend(each for each in actions if isinstance(each, SendLetter))
        buried.update(each.id for each in actions if isinstance(each, Bury))
        assert target.sending == len(waiting) <= slots

    for _ in range(200):
        now += chance.random() * 2
        note(target.tick(now))
        what = chance.random()
        if what < 0.4 and recorded < 60:
            key = f"v{chance.randrange(4)}"
            note(target.handle(LetterRecorded(key, Letter(f"{key}:{recorded}", now + 500)), now))
            recorded += 1
        elif what < 0.45 and target.deliveries:
            delivery = chance.choice(list(target.deliveries.values()))
            letter = chance.choice(list(delivery.letters))
            evicted.add(letter.id)
            note(target.handle(LetterEvicted(delivery.key, letter.id), now))
        elif waiting:
            one = waiting.pop(chance.randrange(len(waiting)))
            if chance.random() < loss:
                note(target.handle(SendEnded(one.key, Failed("x", is_final=chance.random() < 0.1)), now))
            else:
                taken.setdefault(one.key, []).append(int(one.id.partition(":")[2]))
                note(target.handle(SendEnded(one.key, Delivered()), now))
    while waiting or target.deadline() is not None:  # all is well from here on
        while waiting:
            one = waiting.pop(0)
            taken.setdefault(one.key, []).append(int(one.id.partition(":")[2]))
            note(target.handle(SendEnded(one.key, Delivered()), now))
        if (at := target.deadline()) is not None:
            now = max(now, at)
            note(target.tick(now))
    assert target.deliveries == {}
    for numbers in taken.values():
        assert numbers == sorted(numbers)
    assert sum(map(len, taken.values())) + len(buried) + len(evicted) >= recorded
