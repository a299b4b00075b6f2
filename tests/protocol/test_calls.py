from __future__ import annotations

import pytest

from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.wire.calls import (
    FIRST_RESEND_S,
    MAX_ANSWERS_KEPT,
    MAX_AT_ONCE,
    MAX_RESEND_S,
    MAX_WAITING_CALLS,
    UNSENT_RESEND_S,
    Abandoned,
    Answered,
    Called,
    Calls,
    Deliver,
    GiveUp,
    NotSent,
    ReplyArrived,
    Send,
)


def test_a_call_is_sent_again_until_it_is_answered() -> None:
    calls = Calls()
    assert calls.handle(Called(b"1", 5.0), 10.0) == [Send(b"1", 5.0)]
    assert calls.deadline() == 10.0 + FIRST_RESEND_S
    assert calls.tick(10.05) == []
    assert calls.tick(10.1) == [Send(b"1", 4.9)]
    assert calls.handle(ReplyArrived(b"1", "reply"), 10.2) == [Deliver(b"1", "reply")]
    assert calls.deadline() is None
    assert calls.tick(99.0) == []


def test_a_call_expires_at_its_deadline_and_a_late_reply_is_dropped() -> None:
    calls = Calls()
    calls.handle(Called(b"1", 1.0), 0.0)
    now, sent = 0.0, 0
    while True:
        due = calls.deadline()
        assert due is not None
        assert now < due <= now + MAX_RESEND_S
        now = due
        actions = calls.tick(now)
        if actions == [GiveUp(b"1")]:
            break
        sent += len(actions)
    assert now == 1.0
    assert sent >= 2
    assert calls.handle(ReplyArrived(b"1"), now) == []
    assert len(calls) == 0


def test_a_call_that_was_not_sent_is_repeated_soon() -> None:
    calls = Calls()
    calls.handle(Called(b"1", 1.5 * UNSENT_RESEND_S), 0.0)
    calls.handle(NotSent(b"1"), 0.0)
    assert calls.deadline() == UNSENT_RESEND_S
    assert calls.tick(UNSENT_RESEND_S) == [Send(b"1", 1.5 * UNSENT_RESEND_S - UNSENT_RESEND_S)]
    calls.handle(NotSent(b"1"), UNSENT_RESEND_S)
    assert calls.tick(1.5 * UNSENT_RESEND_S) == [GiveUp(b"1")]
    calls.handle(Called(b"2", 9.0), 1.0)
    calls.handle(NotSent(b"2"), 1.0)
    sent_at = 1.0 + UNSENT_RESEND_S
    assert [action.id for action in calls.tick(sent_at)] == [b"2"]
    assert calls.tick(1.0 + FIRST_RESEND_S) == []
    assert [action.id for action in calls.tick(sent_at + FIRST_RESEND_S)] == [b"2"]


def test_an_abandoned_call_is_not_sent_again() -> None:
    calls = Calls()
    calls.handle(Called(b"1", 9.0), 0.0)
    calls.handle(Abandoned(b"1"), 0.05)
    assert calls.deadline() is None
    assert calls.tick(1.0) == []


def test_too_many_calls_are_refused() -> None:
    calls = Calls()
    for number in range(MAX_WAITING_CALLS):
        assert calls.handle(Called(number.to_bytes(4, "big"), 1.0), 0.0)
    with pytest.raises(Unavailable, match="too many calls"):
        calls.handle(Called(b"one more", 1.0), 0.0)


def test_a_request_that_comes_twice_is_carried_out_once() -> None:
    answered = Answered()
    assert answered.begin(b"1") is True
    assert answered.begin(b"1") is False
    answered.done(b"1", b"reply")
    assert answered.begin(b"1") == b"reply"


def test_a_request_without_a_reply_may_be_carried_out_again() -> None:
    answered = Answered()
    answered.begin(b"1")
    answered.done(b"1", None)
    assert answered.begin(b"1") is True


def test_replies_are_kept_within_bounds() -> None:
    answered = Answered()
    for number in range(MAX_ANSWERS_KEPT + 1):
        id = number.to_bytes(4, "big")
        answered.begin(id)
        answered.done(id, b"x")
    assert answered.begin((0).to_bytes(4, "big")) is True
    assert answered.begin((1).to_bytes(4, "big")) == b"x"
    answered.done(b"big", b"x" * 17 * 1024 * 1024)
    assert answered.begin((5).to_bytes(4, "big")) is True


def test_an_owner_that_answers_other_calls_is_spared_a_resend_but_not_for_ever() -> None:
    calls = Calls()
    calls.handle(Called(b"1", 9.0), 0.0)
    now, sent_at = 0.0, 0.0
    while not sent_at:
        due = calls.deadline()
        assert due is not None
        now = due
        calls.handle(ReplyArrived(b"another"), now - 0.01)
        sent_at = now if calls.tick(now) else 0.0
    assert FIRST_RESEND_S < sent_at < 1.0, "a request that was lost with an owner is there within a second (G7)"
    calls.handle(Called(b"2", 9.0), 10.0)
    assert [action.id for action in calls.tick(10.0 + FIRST_RESEND_S) if isinstance(action, Send)] == [b"2"]


def test_many_calls_that_are_due_are_sent_again_a_few_at_a_time() -> None:
    calls = Calls()
    for number in range(3 * MAX_AT_ONCE):
        calls.handle(Called(number.to_bytes(4, "big"), 9.0), 0.0)
    sent: list[bytes] = []
    now = FIRST_RESEND_S
    while len(sent) < 3 * MAX_AT_ONCE:
        actions = calls.tick(now)
        assert 0 < len(actions) <= MAX_AT_ONCE
        sent += [action.id for action in actions]
        due = calls.deadline()
        assert due is not None
        now = due
    assert len(set(sent)) == 3 * MAX_AT_ONCE
