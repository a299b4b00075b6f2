"""The limit of open files (getrlimit(2)): each process raises it when it starts, as far as it may.

A shell gives its programs a soft limit of 1,024, which a thousand connections use up. ZeroMQ does not survive that on
ipc: its listener aborts the process when it cannot accept (libzmq 4.3.5, ipc_listener.cpp).
"""

from __future__ import annotations

import resource

WANTED = 65_536
"""Each connection of the bus and each TCP client of dns is one; more than that no process of ours is meant to have."""


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit to `wanted`, or to the hard limit if that is less; never lower it. Return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
