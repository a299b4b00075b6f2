"""A task group that is ended on purpose."""

from __future__ import annotations

import asyncio

import pytest

from jitsu_runtime.tasks import EndableGroup


async def test_ending_a_group_cancels_its_tasks_and_raises_nothing() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with EndableGroup() as group:
        for name in ("a", "b"):
            group.create_task(work(name))
        await asyncio.sleep(0)
        group.end()
    assert sorted(ended) == ["a", "b"]


async def test_no_task_begins_in_a_group_that_has_ended() -> None:
    async with EndableGroup() as group:
        group.end()
        late = asyncio.Event().wait()
        with pytest.raises(RuntimeError):
            group.create_task(late)
        late.close()


async def test_a_failure_while_a_group_ends_is_raised() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    async def run() -> None:
        async with EndableGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(0)
            group.end()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
