"""Running one command: with a limit, bounded output, and nothing of vmd's but a short environment.

A command prints into files in memory (memfd_create(2)), because writing to a pipe that nobody reads would end it
halfway when vmd dies. Once such a file is long enough it is sealed (F_SEAL_GROW), and when the command has ended it is
too: a daemon that it leaves behind can add nothing. A command has a session of its own. When its time is over, it and
all that it has started there are ended, first by SIGTERM and then by SIGKILL.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from jitsu_vmd.hypervisors.command.rules.reports import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jitsu_runtime.clock import Clock

MAX_OUTPUT_BYTES = 1 << 20
"""That is read of each of its two outputs. The states of 10,000 VMs are 300 kB."""
CHECK_S = 0.1
"""How often it is seen whether a command that runs has printed more than that."""
GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""

_left: list[subprocess.Popen[bytes]] = []
"""Commands for which nobody waits any longer: they are reaped when the next command is run."""


async def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    limit: float,
    clock: Clock,
    began: Callable[[int], None] | None = None,
) -> Ended:
    """Run a command; raises OSError if it cannot be started.

    `began` is called with its process id. Such a command changes something and goes on when this is cancelled; others
    are killed then.
    """
    with _memory_file("output") as out, _memory_file("errors") as errors:
        _left[:] = [each for each in _left if each.poll() is None]
        process = _started(argv, environment, out, errors)
        checking = _Checking(clock, (out, errors))
        try:
            if began is not None:
                began(process.pid)
            killed_after = None if await has_ended(process.pid, limit, clock) else limit
            if killed_after is not None:
                await end(process.pid, clock)
        except asyncio.CancelledError:
            if began is None:
                kill(process.pid)
            _left.append(process)
            raise
        except OSError:
            leave(process)  # it cannot be waited for: nobody would know whether it goes on
            raise
        finally:
            checking.stop()
            _seal(out, errors)
        is_cut = os.fstat(out.fileno()).st_size > MAX_OUTPUT_BYTES
        return Ended(process.wait(), _text(out), _text(errors), killed_after, is_cut)


def _started(
    argv: Sequence[str], environment: Mapping[str, str], out: IO[bytes], errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment, cwd="/", start_new_session=True
    )


def leave(process: subprocess.Popen[bytes]) -> None:
    """Kill a command, with all that it has started in its session, and wait for it later."""
    kill(process.pid)
    _left.append(process)


def kill(pid: int) -> None:
    """Kill a command, and all that it has started in its session."""
    _signal(pid, signal.SIGKILL)


async def has_ended(pid: int, limit: float, clock: Clock) -> bool:
    """Wait until a process has ended, at most `limit` seconds; says whether it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop = asyncio.get_running_loop()
    over: asyncio.Future[bool] = loop.create_future()

    def finish(ended: bool) -> None:
        if not over.done():
            over.set_result(ended)

    timer = clock.call_in(max(0.0, limit), lambda: finish(False))
    loop.add_reader(descriptor, finish, True)  # pidfd_open(2): readable when the process has ended
    try:
        return await over
    finally:
        timer.cancel()
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def end(pid: int, clock: Clock) -> None:
    """End a command, and what it has started in its session, and wait until it has ended."""
    _signal(pid, signal.SIGTERM)
    if not await has_ended(pid, GRACE_S, clock):
        _signal(pid, signal.SIGKILL)
        await has_ended(pid, GRACE_S, clock)


def _signal(pid: int, number: int) -> None:
    """Send a signal to a session; its leader has not been waited for, so the number is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


class _Checking:
    """Seals files that have become long, until it is stopped."""

    def __init__(self, clock: Clock, files: Sequence[IO[bytes]]) -> None:
        self._clock = clock
        self._files = files
        self._timer = clock.call_in(CHECK_S, self._check)

    def _check(self) -> None:
        _seal(*(file for file in self._files if os.fstat(file.fileno()).st_size > MAX_OUTPUT_BYTES))
        self._timer = self._clock.call_in(CHECK_S, self._check)

    def stop(self) -> None:
        """Check no longer."""
        self._timer.cancel()


@contextmanager
def _memory_file(name: str) -> Iterator[IO[bytes]]:
    """Yield a file in memory, to whose end all writing goes, whoever opens /dev/stdout."""
    with open(os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        fcntl.fcntl(file.fileno(), fcntl.F_SETFL, fcntl.fcntl(file.fileno(), fcntl.F_GETFL) | os.O_APPEND)
        yield file


def _seal(*files: IO[bytes]) -> None:
    """Let files become no longer than they are (fcntl(2), F_ADD_SEALS)."""
    for file in files:
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)


def _text(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), MAX_OUTPUT_BYTES, 0).decode("utf-8", "replace")
