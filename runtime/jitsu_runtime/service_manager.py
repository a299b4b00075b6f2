"""How a process and its supervisor talk: systemd's sd_notify(3), or the lifeline of a `jitsu up`."""

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
"""Number of an inherited pipe: when its other end is closed, the suite that this process belongs to is gone."""


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM, SIGINT, or when the lifeline breaks."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    descriptor = lifeline()
    if descriptor is not None:

        def broken() -> None:
            loop.remove_reader(descriptor)
            stop()

        loop.add_reader(descriptor, broken)


def lifeline() -> int | None:
    """Return the inherited descriptor of the lifeline, if this process is part of a `jitsu up`."""
    number = os.environ.get(LIFELINE_VARIABLE, "")
    return int(number) if number.isdecimal() else None


def notify(state: str) -> bool:
    """Send a line to the service manager, if there is one (sd_notify(3)); returns whether there is."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
    return True
