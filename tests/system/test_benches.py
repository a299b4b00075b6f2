"""The benchmarks that the pages name run as they are written there, briefly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import ROOT
from tests.support.suite import wait_for
from tests.test_readmes import all_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = sorted(set(re.findall(r"`((?:make|python -m) (?:bench|fuzz)[^`]*)`", all_pages())))
TIERS = {
    "make bench-engines": pytest.mark.net,
    "make bench-libvirt": pytest.mark.libvirt,
    "make bench-page": pytest.mark.browser,
    "make bench-synjitsu": pytest.mark.net,
    "make bench-unikernel": pytest.mark.net,
}
BRIEFLY = {"JITSU_BENCH_BRIEF": "1", "PACKETS": "5000", "QUERIES": "4000"}
FIGURES = {
    "make bench": r"query to the reply +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ x +[\d.]+ x\n",
    "make bench-dns": r"(?s)Jitsu +\d+ \(1\.00\).*Jitsu's dns process: \d+ MB\n.*cold names at once",
    "make bench-engines": r"(?s)command +[\d.]+ +[\d.]+ +[\d.]+ .*solo5 +[\d.]+ .*plot: ",
    "make bench-footprint": r"all of the suite +[\d.]+ +[\d.]+ +[\d.]+\n(.*\n)*jitsu status +\d+ ",
    "make bench-libvirt": r"cold +\d+ +\d+ +\d+ +\d+ .*\nsaved .*\npaused .*\n",
    "make bench-page": r"a state changed, until its row shows it",
    "make bench-scale": r"(?s)min running.*NXDOMAIN for a name that is held: 0\n.*back after kill -9: reaper [\d.]+ s",
    "make bench-store": r"one key changed, acknowledged and on the disk +median [\d.]+ ms\n",
    "make bench-synjitsu": r"0\.50 s with +[\d.-]+ +[\d.-]+ .* ms\n",
    "make bench-unikernel": r"(?s)the tender alone.*Synjitsu, taps pooled: page +[\d.]+.*taps left behind: 0\n",
    "make bench-web": r"jitsu-web: \d+ % of a core, \d+ MiB\n",
    "make fuzz": r"\d+ passed",
    "python -m bench.dns_flood": r"flood nxdomain: warm queries took [\d.]+ ms.*; 0 lost\n",
    "python -m bench.dns_large": r"change visible after its acknowledgement: [\d.]+ ms",
    "python -m bench.path_lengths": r"a SYN: \d+ functions in \d+ files",
}
"""Something that each must print."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", [pytest.param(line, marks=TIERS.get(line, pytest.mark.suite)) for line in LINES])
def test_it_runs_as_it_is_written(line: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **BRIEFLY, "PATH": path}
    for inherited in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environment.pop(inherited, None)
    done = subprocess.run(["sh", "-c", line], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(FIGURES[line], done.stdout), done.stdout


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A path that leaves room for the names of sockets below it, which have at most 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.mark.suite
def test_a_benchmark_that_is_ended_leaves_no_store_and_no_packer_running(short_directory: Path) -> None:
    environment = {**os.environ, **BRIEFLY, "TMPDIR": str(short_directory)}
    command = [sys.executable, "-m", "bench.store", "1000000"]

    def running() -> list[str]:
        found = []
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found += [line for line in [each.read_text().replace("\0", " ")] if str(short_directory) in line]
        return found

    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        while "on the disk, packed" not in bench.stdout.readline():
            assert bench.poll() is None
        wait_for(lambda: any("packer" in line for line in running()), 20, "the changes have begun")
        bench.terminate()
        assert bench.wait(20) == 128 + signal.SIGTERM
    wait_for(lambda: not running(), 5, "the packer notices that the store is gone")


@pytest.mark.suite
def test_every_benchmark_is_named() -> None:
    assert set(LINES) == set(FIGURES)
