"""Calls of other services: given up when the service falls silent, and not before."""

from __future__ import annotations

import asyncio

import pytest

from jitsu_protocol.messages import Done
from jitsu_protocol.model.errors import Unavailable
from jitsu_web.rules.callers import ApiCaller
from jitsu_web.wires import asking


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_S", 0.001)
    monkeypatch.setattr(asking, "SILENT_S", 0.005)


async def never() -> Done:
    await asyncio.get_running_loop().create_future()
    return Done()


async def test_a_call_of_a_service_that_falls_silent_is_given_up() -> None:
    with pytest.raises(Unavailable, match="vmd is not heard"):
        await asking.while_heard(never(), lambda: False, "vmd")


async def test_a_service_that_is_heard_again_is_waited_for() -> None:
    looks = 0
    answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    def is_heard() -> bool:
        nonlocal looks
        looks += 1
        if looks == 20:
            answer.set_result(Done())
        return looks % 3 == 0

    async def call() -> Done:
        return await answer

    assert await asking.while_heard(call(), is_heard, "vmd") == Done()


@pytest.mark.parametrize(
    ("name", "user"),
    [("alice", "alice"), ("a b", "a_b"), ("é", "u_"), ("_x", "u_x"), ("a" * 80, "a" * 64), ("a@b.c", "a@b.c")],
)
def test_whoever_asks_has_a_name_that_other_services_accept(name: str, user: str) -> None:
    caller = ApiCaller(name, "operator", "socket")
    assert (caller.user, caller.identity) == (user, f"operator:{user} via web")
