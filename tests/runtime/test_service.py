"""What a process is given by jitsu_runtime.service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.process import running_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires


async def test_what_a_timer_begins_while_the_process_ends_is_not_run(tmp_path: Path) -> None:
    ran = []

    async def work() -> None:
        ran.append("it ran")

    async with running_process("reaper", tmp_path) as process:
        await process.spawn(work())
    assert ran == ["it ran"]
    await process.spawn(work())
    assert ran == ["it ran"]
