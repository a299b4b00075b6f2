"""Commands of the system, which may leave a daemon behind and hang.

Each is started with no descriptor but its own three. What asyncio starts on uvloop inherits the other ends of its pipes
too: a daemon that it leaves, as `xl create` does, would keep them, and the command would never seem to end.
"""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

from jitsu_protocol.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_AT_ONCE = 64
_threads = DaemonThreads(MAX_AT_ONCE, "command")


async def run(*argv: str) -> tuple[int, str, str]:
    """Run a command; return its status, what it printed, and what it complained of. It is killed when cancelled.

    Raises FileNotFoundError if there is none.
    """
    process = _started(argv)
    try:
        out, err = await asyncio.get_running_loop().run_in_executor(_threads, process.communicate)
    except asyncio.CancelledError:
        process.kill()  # the thread sees it end
        raise
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


def _started(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True
    )
