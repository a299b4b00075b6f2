"""Tasks that end with a block of a test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Over(Exception):
    """The block is over."""


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield a group whose tasks are cancelled at the end of the block; one that fails ends the block."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
            raise _Over
    except* _Over:
        pass
