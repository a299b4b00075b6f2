"""A process as services have one, in a test's own event loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from jitsu_protocol.process import Process
from jitsu_protocol.settings import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class _Over(Exception):
    """The test is over."""


@asynccontextmanager
async def running_process(service: str, directory: Path, **settings: str) -> AsyncIterator[Process]:
    """Run one; `settings` are as hypervisor__connect="test:///default"."""
    flags = {key.replace("__", "."): value for key, value in settings.items()}
    loaded = load(None, {}, {"bus.runtime_dir": str(directory)} | flags)
    try:
        async with asyncio.TaskGroup() as group:
            process = Process(service, loaded, group)
            try:
                yield process
            finally:
                process.close()
            raise _Over
    except* _Over:
        pass
