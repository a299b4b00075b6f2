"""How a process talks to its supervisor: systemd's sd_notify(3), or the lifeline of `jitsu up` (supervise.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIFELINE_VARIABLE = "JITSU_LIFELINE_FD"
"""The number of an inherited socket. When its other end is closed, the suite of this process has ended."""


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


def notify(state: str) -> bool:
    """Send a state such as READY=1 to the service manager (sd_notify(3)); return whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
    return True
