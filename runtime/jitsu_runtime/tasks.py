"""A task group that can be ended in an orderly way.

asyncio's TaskGroup ends when all its tasks have ended, or when one of them fails. The usual way to stop it earlier is
to raise an exception in it. The caller then has to pick that one out of an exception group, where it stands beside real
failures. `end` cancels the tasks instead, and a cancelled task is not a failure (asyncio.TaskGroup).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")


class EndableGroup(asyncio.TaskGroup):
    """A TaskGroup whose tasks can be cancelled without an exception."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[asyncio.Task[Any]] = set()
        self._has_ended = False

    def create_task(self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        """Start a task; raises RuntimeError after `end`, as after a failure."""
        if self._has_ended:
            raise RuntimeError("this group has ended")
        task = super().create_task(coro, **options)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def end(self) -> None:
        """Cancel all tasks, and start no others."""
        self._has_ended = True
        for task in self._running:
            task.cancel()
