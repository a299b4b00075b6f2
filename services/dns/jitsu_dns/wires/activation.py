"""Sockets that the service manager has bound (sd_listen_fds(3)).

With these, a replica serves port 53 without privileges, and the port stays open while the replica restarts.
"""

from __future__ import annotations

import os
import socket

FIRST_DESCRIPTOR = 3


def is_activated() -> bool:
    """Return whether the service manager has sockets for this process."""
    return os.environ.get("LISTEN_PID", "") == str(os.getpid())


def inherited() -> list[socket.socket]:
    """Return the sockets that were handed over. A second call returns none."""
    if not is_activated():
        return []
    del os.environ["LISTEN_PID"]
    found = []
    for number in range(int(os.environ.pop("LISTEN_FDS", "0"))):
        bound = socket.socket(fileno=FIRST_DESCRIPTOR + number)
        bound.setblocking(False)
        os.set_inheritable(bound.fileno(), False)
        found.append(bound)
    return found
