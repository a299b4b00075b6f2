"""Ends of the bus that run for the length of a test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Ping, Pong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in work]
    await asyncio.sleep(0)  # a task that is cancelled before it has begun would close nothing
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def pong(_: Ping) -> Pong:
    return Pong(service="x", version="0", pid=1, uptime_s=0.0)
