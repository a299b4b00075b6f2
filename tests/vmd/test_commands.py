"""Commands that change something are not cut off when vmd is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jitsu_vmd.hypervisors.shared import commands

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires

LOUD = "sleep 0.3; echo loud; echo loud >&2; touch {}"
"""Under a shell of which the output is closed, `echo` would be killed by SIGPIPE."""
VMD = (
    "import asyncio, sys; from jitsu_vmd.hypervisors.shared import commands; "
    "asyncio.run(commands.run('sh', '-c', sys.argv[1]))"
)


def vmd_that_runs(command: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", VMD, command]
    return subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)


async def is_there(path: Path) -> None:
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGINT])
async def test_a_command_goes_on_when_vmd_is_ended(tmp_path: Path, ends: signal.Signals) -> None:
    begun = tmp_path / "begun"
    work = f"touch {begun}; set -e; {LOUD.format(tmp_path / 'done')}"
    vmd = vmd_that_runs(work)
    await is_there(begun)
    os.killpg(vmd.pid, ends)  # as Ctrl-C does, to all of the terminal's foreground group
    vmd.wait()
    await is_there(tmp_path / "done")


async def test_a_command_that_only_looks_is_ended_when_it_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await commands.run("sh", "-c", f"sleep 0.4; touch {tmp_path / 'looked'}", is_look=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await commands.run("sh", "-c", f"sleep 0.6; touch {tmp_path / 'changed'}")
    await is_there(tmp_path / "changed")
    assert not (tmp_path / "looked").exists()


async def test_what_a_command_says_is_returned() -> None:
    assert await commands.run("sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


async def test_a_command_needs_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # under the shipped unit all of them are read only
    monkeypatch.setattr("tempfile._get_default_tempdir", lambda: "/nowhere")
    assert await commands.run("echo", "out") == (0, "out\n", "")
