"""Running commands of the system, which may leave a daemon behind, and may hang.

A command is started with its own three descriptors only. What asyncio starts on uvloop inherits the other ends of its
pipes too. A daemon that it leaves behind, as `xl create` does, would keep them open, and the command would never seem
to end.

A command that changes something goes on when vmd dies. It has a session of its own, so that Ctrl-C does not reach it.
It prints into files, because writing to a pipe that nobody reads would kill it halfway. These files are in memory
(memfd_create(2)): under the shipped unit, vmd has no directory for temporary files that it may write to.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import IO, TYPE_CHECKING

from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_AT_ONCE = 64
_threads = DaemonThreads(MAX_AT_ONCE, "command")


async def run(*argv: str, is_look: bool = False) -> tuple[int, str, str]:
    """Run a command; return its exit status, its standard output, and its standard error.

    When this is cancelled, a command that only looks (`is_look`) is killed; others go on. Raises FileNotFoundError if
    there is no such command.
    """
    with memory_file("output") as out, memory_file("errors") as err:
        process = _started(argv, out, err)
        try:
            status = await asyncio.get_running_loop().run_in_executor(_threads, process.wait)
        except asyncio.CancelledError:
            if is_look:
                process.kill()  # the thread sees it end
            raise
        return status, _text(out), _text(err)


def memory_file(name: str) -> IO[bytes]:
    """Return a file that is nowhere on the disk."""
    return open(os.memfd_create(name), "w+b")


def _started(argv: Sequence[str], out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
