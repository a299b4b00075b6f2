"""Long work on the event loop (git/steps.py): after each step, others have their turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from jitsu_store.git.steps import Steps

T = TypeVar("T")


async def in_steps(steps: Steps[T]) -> T:
    """Do all steps, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await asyncio.sleep(0)
