"""Sends of the bus that fail at random: everybody goes on, and every caller gets the reply to its own request.

FUZZ_QUERIES=200000 makes that many calls (`make fuzz`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.debian import program

CALLS = int(os.environ.get("FUZZ_QUERIES", "1000")) // 2
BRIEF = 500
LIMIT_S = 60 if CALLS <= BRIEF else 3600
pytestmark = [pytest.mark.wires, pytest.mark.timeout(LIMIT_S)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("preload") / "failing_sends.so"
    source = ROOT / "tests" / "support" / "failing_sends.c"
    subprocess.run([program("gcc", "gcc"), "-shared", "-fPIC", "-O2", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.mark.parametrize(("transport", "every"), [("ipc", 20), ("tcp", 50)])
def test_g9_failing_sends_cost_no_caller_its_reply_and_no_follower_an_item(
    transport: str, every: int, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.asking", transport, str(tmp_path), str(CALLS)],
        env=os.environ | {"LD_PRELOAD": str(library), "FAIL_EVERY": str(every)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    asked = CALLS // 200 * 200
    assert (seen["right"], seen["wrong"], seen["errors"]) == (asked, 0, 0)
    assert seen["failed"] > 0
    with capsys.disabled():
        if CALLS > BRIEF:
            print(f"\n{transport}, every {every}th send fails: {asked} asked, {seen}")
