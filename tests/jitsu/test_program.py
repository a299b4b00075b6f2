"""Programs that the tool runs for a moment."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from jitsu.program import run_module

pytestmark = pytest.mark.wires


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory from which `python -m` takes modules; `hangs` is one that never ends by itself."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tmp_path.joinpath("hangs.py").write_text("import time\ntime.sleep(60)\n")
    return tmp_path


def children() -> set[str]:
    """Return the processes that this one has started and that have not been waited for."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_what_a_program_prints_and_how_it_ends_is_returned(modules: Path) -> None:
    modules.joinpath("speaks.py").write_text("import sys\nprint(sys.argv[1])\nsys.exit('why')\n")
    finished = await run_module("speaks", "this", limit_s=20)
    assert finished is not None
    assert (finished.status, finished.out, finished.err) == (1, "this\n", "why\n")


@pytest.mark.usefixtures("modules")
async def test_a_program_that_hangs_is_killed_at_its_limit() -> None:
    before = children()
    assert await run_module("hangs", limit_s=0.1) is None
    assert children() == before


@pytest.mark.usefixtures("modules")
async def test_a_program_does_not_outlive_whoever_waits_for_it() -> None:
    before = children()
    waits = asyncio.create_task(run_module("hangs", limit_s=60))
    await asyncio.wait((waits,), timeout=0.1)
    assert children() != before
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert children() == before


@pytest.mark.usefixtures("modules")
async def test_a_program_that_is_still_being_started_does_not_outlive_whoever_waits_for_it() -> None:
    before = children()
    for turns in range(10):
        waits = asyncio.create_task(run_module("hangs", limit_s=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert children() == before, turns
