"""Sockets that the service manager has bound (sd_listen_fds(3)): port 53 without privilege, open in restarts."""

from __future__ import annotations

import os
import socket

FIRST_DESCRIPTOR = 3


def inherited() -> dict[int, socket.socket]:
    """Return the sockets that were handed over, by type: SOCK_DGRAM, SOCK_STREAM. They are handed over once."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return {}
    found = {}
    for number in range(int(os.environ.pop("LISTEN_FDS", "0"))):
        bound = socket.socket(fileno=FIRST_DESCRIPTOR + number)
        bound.setblocking(False)
        os.set_inheritable(bound.fileno(), False)
        found[int(bound.type)] = bound
    return found
