"""Signals that come while a service still loads its program, which takes a third of a second.

Each service's package calls `hold` before anything else is imported. From then on

    SIGHUP             is noted; when the service listens for it, it reads its configuration again
    SIGTERM, SIGINT    end the process with status 0: it has not begun anything

until the service listens for them itself. A signal that its parent has had ignored stays ignored. This module imports
next to nothing, so that it is early.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing takes a while to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_noted: list[int] = []


def hold(package: str) -> None:
    """Hold signals if this process is the program of a service, and not another that imports its package."""
    if is_program_of(package, sys.argv, sys.orig_argv):
        for number, handler in ((signal.SIGHUP, _note), (signal.SIGTERM, _end), (signal.SIGINT, _end)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def is_program_of(package: str, argv: Sequence[str], original: Sequence[str]) -> bool:
    """Return whether a process runs a service: as `python -m jitsu_dns.main`, or by its script `jitsu-dns`."""
    name = package.replace("_", "-")
    return (argv[:1] == ["-m"] and f"{package}.main" in original) or os.path.basename(argv[0] if argv else "") == name


def on_hangup(listen: Callable[[int, Callable[[], None]], object], reload: Callable[[], None]) -> None:
    """Call `reload` on SIGHUP from now on, and at once if one has come; `listen` is the loop's add_signal_handler."""
    listen(signal.SIGHUP, reload)
    if _noted:
        _noted.clear()
        reload()


def _note(number: int, _: object) -> None:
    _noted.append(number)


def _end(_: int, __: object) -> None:
    os._exit(0)
