"""What jitsu_runtime.service does for a service: its tasks, and the exit status of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from jitsu_protocol.model.errors import DamagedStore, SetupFault
from jitsu_runtime.service import exit_status
from tests.support.process import running_process

if TYPE_CHECKING:
    from pathlib import Path


def test_a_setup_fault_is_printed_and_decides_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    nested = ExceptionGroup("", [ExceptionGroup("", [DamagedStore("HEAD is empty")])])
    assert exit_status("store", nested) == DamagedStore.status == 3
    assert capsys.readouterr().err == "jitsu-store: HEAD is empty\n"


def test_a_task_that_failed_outweighs_a_setup_fault_and_is_logged_with_its_traceback() -> None:
    failure = KeyError("x")
    with structlog.testing.capture_logs() as logged:
        assert exit_status("vmd", ExceptionGroup("", [failure, SetupFault("no bridge")])) == 1
    assert logged == [{"event": "task failed", "log_level": "error", "service": "vmd", "exc_info": failure}]


@pytest.mark.wires
async def test_a_coroutine_that_is_spawned_while_the_process_ends_is_not_run(tmp_path: Path) -> None:
    ran = []

    async def work() -> None:
        ran.append("it ran")

    async with running_process("reaper", tmp_path) as process:
        await process.spawn(work())
    assert ran == ["it ran"]
    await process.spawn(work())
    assert ran == ["it ran"]
