"""Starts stores from a process that has Python and all modules ready: a test that starts a hundred needs that.

    python -m tests.support.store_forks DATABASE RUNTIME_DIR

`start` on standard input forks a store, in a session of its own, and prints its pid; `wait` prints what it has said on
standard error as soon as it and all that it has started are gone. All else is as when it is started by its command.
"""

from __future__ import annotations

import os
import signal
import sys

from jitsu_store.main import main as store


def serve(database: str, runtime: str) -> None:
    """Do what is asked until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    said = -1
    for line in sys.stdin:
        if line == "wait\n":
            with os.fdopen(said, "rb") as pipe:
                print(repr(pipe.read()), flush=True)
            continue
        said, saying = os.pipe()
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(saying, 2)
            os.closerange(3, max(saying, said) + 1)
            sys.argv[1:] = ["--path", database, "--bus-runtime-dir", runtime]
            store()
        os.close(saying)
        print(pid, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
