"""How a process talks to its supervisor: systemd's sd_notify(3), or the lifeline of `jitsu up` (supervise.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIFELINE_VARIABLE = "JITSU_LIFELINE_FD"
"""The number of an inherited socket. When its other end is closed, the suite of this process has ended."""
BEGIN_VARIABLE = "JITSU_BEGIN_FD"
"""The number of an inherited pipe. A byte in it says that this process may begin; its end, that it is not needed."""
LOADED = "X_JITSU_LOADED=1"
"""The notification of a process that has loaded its program, and waits until it may begin."""


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM, on SIGINT, and when the other end of the lifeline is closed."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    descriptor = lifeline()
    if descriptor is not None:

        def closed() -> None:
            loop.remove_reader(descriptor)
            stop()

        loop.add_reader(descriptor, closed)


def lifeline() -> int | None:
    """Return the inherited descriptor of the lifeline; None if `jitsu up` has not started this process."""
    number = os.environ.get(LIFELINE_VARIABLE, "")
    return int(number) if number.isdecimal() else None


def wait_to_begin() -> None:
    """Wait until this process may begin, if its supervisor holds it; ends it if that has no use for it."""
    number = os.environ.pop(BEGIN_VARIABLE, "")
    if not number.isdecimal():
        return
    notify(LOADED)
    may_begin = os.read(int(number), 1)
    os.close(int(number))
    if not may_begin:
        sys.exit(0)


def notify(state: str) -> bool:
    """Send a state such as READY=1 to the service manager (sd_notify(3)); return whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
    return True
