"""A signal that comes in the first second of a service neither kills it half way nor is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.first_signals import is_program_of
from jitsu_runtime.service_manager import LIFELINE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = ("store", "vmd", "dns", "synjitsu", "reaper")


@pytest.mark.parametrize(
    ("argv", "original", "is_it"),
    [
        (["-m"], ["python3", "-m", "jitsu_dns.main", "--port", "53"], True),
        (["/usr/bin/jitsu-dns", "--check"], ["python3", "/usr/bin/jitsu-dns"], True),
        (["/usr/bin/jitsu-dnsperf"], ["python3"], False),
        (["-m"], ["python3", "-m", "jitsu.main", "up"], False),
        (["-c"], ["python3", "-c", "import jitsu_dns.main"], False),
        ([], [], False),
    ],
)
def test_only_the_program_of_a_service_holds_signals(argv: list[str], original: list[str], is_it: bool) -> None:
    assert is_program_of("jitsu_dns", argv, original) is is_it


@pytest.fixture
def lifeline() -> Iterator[int]:
    """What ends a service with all that it has started, such as the host of mock guests, when it is closed."""
    own, of_service = socket.socketpair()
    with own, of_service:
        yield of_service.fileno()


async def started(service: str, directory: Path, lifeline: int, *more: str) -> asyncio.subprocess.Process:
    environment = {key: text for key, text in os.environ.items() if key != "JITSU_CONFIG"}
    environment[LIFELINE_VARIABLE] = str(lifeline)
    own = {"store": ["--path", str(directory / "state.git")], "dns": ["--port", "0"]}.get(service, [])
    directory.mkdir(exist_ok=True)
    with (directory / "log").open("w") as log:  # not a pipe, which the host of mock guests would keep open
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"jitsu_{service}.main", "--bus-runtime-dir", str(directory), *own, *more),
            env=environment,
            stdout=log,
            stderr=log,
            pass_fds=(lifeline,),
        )


async def holds_signals(process: asyncio.subprocess.Process) -> None:
    """Wait until the interpreter has begun with the first module of ours; the program is not loaded yet."""
    async with asyncio.timeout(30):
        while True:
            status = Path(f"/proc/{process.pid}/status").read_text()
            caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
            if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
                return
            await asyncio.sleep(0.002)


async def ended(process: asyncio.subprocess.Process, directory: Path) -> tuple[int, str]:
    try:
        async with asyncio.timeout(20):
            return await process.wait(), (directory / "log").read_text()
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.wires
@pytest.mark.parametrize("service", SERVICES)
async def test_a_hangup_at_once_makes_a_service_read_its_configuration_again(
    service: str, tmp_path: Path, lifeline: int
) -> None:
    process = await started(service, tmp_path, lifeline, "--log-level", "info")
    await holds_signals(process)
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        while process.returncode is None and "read again" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    status, said = await ended(process, tmp_path)
    assert (status, "read again" in said, "Traceback" in said) == (0, True, False), said


@pytest.mark.wires
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("service", SERVICES)
async def test_it_ends_cleanly_whenever_it_is_stopped(
    service: str, number: signal.Signals, tmp_path: Path, lifeline: int
) -> None:
    for delay in (0.0, 0.15, 0.4):
        directory = tmp_path / str(delay)
        process = await started(service, directory, lifeline)
        await holds_signals(process)
        await asyncio.sleep(delay)
        process.send_signal(number)
        status, said = await ended(process, directory)
        assert (status, "Traceback" in said) == (0, False), said
