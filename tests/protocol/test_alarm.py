"""The one timer of a process: it rings when it is set to, and whoever was held up reads before it judges."""

from __future__ import annotations

import asyncio
import socket
import time
from time import monotonic

import pytest

from jitsu_protocol.alarm import HELD_UP_S, LISTEN_S, Alarm


class Rings:
    """An alarm, and when it rang."""

    def __init__(self) -> None:
        self.alarm = Alarm(self._rang)
        self.at: list[float] = []

    def _rang(self) -> None:
        self.at.append(monotonic())


async def test_it_rings_once_at_what_was_set_last() -> None:
    rings = Rings()
    begun = monotonic()
    for seconds in (0.01, 30.0, 0.05):
        rings.alarm.set(begun + seconds)
    await asyncio.sleep(0.2)
    assert len(rings.at) == 1
    assert rings.at[0] - begun >= 0.049  # the clock's own grain
    rings.alarm.set(begun)
    await asyncio.sleep(0.01)
    assert len(rings.at) == 2, "what is past rings at once"


async def test_it_does_not_ring_when_nothing_is_due_any_more() -> None:
    rings = Rings()
    rings.alarm.set(monotonic() + 0.01)
    rings.alarm.set(None)
    await asyncio.sleep(0.05)
    assert rings.at == []


async def test_the_same_time_may_be_set_again_when_it_rings() -> None:
    due = monotonic() + 0.01
    rung: list[float] = []

    def rang() -> None:
        rung.append(monotonic())
        if len(rung) < 3:
            alarm.set(due)

    alarm = Alarm(rang)
    alarm.set(due)
    await asyncio.sleep(0.1)
    assert len(rung) == 3


@pytest.mark.parametrize("moves", [False, True])
async def test_who_was_held_up_reads_what_came_meanwhile_before_it_judges(moves: bool) -> None:
    """`moves`: what is read has another deadline be the earliest, which is past as well."""
    happened: list[str] = []
    due = monotonic() + 0.05
    alarm = Alarm(lambda: happened.append("judged"))
    alarm.set(due)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def read() -> None:
        for _ in range(3):
            await asyncio.get_running_loop().sock_recv(ours, 1)
            await asyncio.sleep(0)  # as a message passes through several tasks
            happened.append("read")
            if moves:
                alarm.set(due + len(happened) / 1000)

    reads = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    theirs.send(b"abc")
    time.sleep(0.05 + HELD_UP_S + 0.05)  # noqa: ASYNC251  # held up
    await reads
    await asyncio.sleep(2 * LISTEN_S)
    assert happened == ["read", "read", "read", "judged"]
    ours.close()
    theirs.close()


async def test_one_that_always_comes_late_judges_too() -> None:
    rings = Rings()
    rings.alarm.set(monotonic() + 0.01)
    for _ in range(2):
        time.sleep(HELD_UP_S + LISTEN_S + 0.05)  # noqa: ASYNC251
        await asyncio.sleep(0.001)
    assert len(rings.at) == 1


async def test_a_deadline_that_what_was_read_has_put_off_is_not_judged() -> None:
    rings = Rings()
    begun = monotonic()
    rings.alarm.set(begun + 0.01)
    time.sleep(HELD_UP_S + 0.05)  # noqa: ASYNC251
    await asyncio.sleep(0.001)  # it listens
    rings.alarm.set(monotonic() + 5 * LISTEN_S)
    await asyncio.sleep(3 * LISTEN_S)
    assert rings.at == []
    await asyncio.sleep(4 * LISTEN_S)
    assert len(rings.at) == 1
