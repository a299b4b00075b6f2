"""The limit of open files (getrlimit(2)): each process raises it when it starts, as far as it may.

A shell gives its programs a soft limit of 1,024, which a thousand connections use up. Where the hard limit is as low as
that, the bus takes fewer connections (door.py), and a replica of dns fewer clients.
"""

from __future__ import annotations

import resource

WANTED = 65_536
"""Each connection of the bus and each TCP client of dns is one; more than that no process of ours is meant to have."""
OWN_FILES = 160
"""What a process has open beside its connections."""
MAX_CONNECTIONS = 2_000
"""Of one endpoint of the bus, whatever the limit is: each costs memory too."""
LEAST_CONNECTIONS = 16


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit to `wanted`, or to the hard limit if that is less; never lower it. Return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def connections_allowed(limit: int | None = None) -> int:
    """Return how many connections one endpoint of the bus may have under a limit of open files, that of now if None.

    A service has two endpoints. Half of what there is for them stays free: for what libzmq accepts before a door
    (door.py) has cut a connection, and for what the service opens in the meantime.
    """
    if limit is None:
        limit = raise_limit(0)
    return min(MAX_CONNECTIONS, max(LEAST_CONNECTIONS, (limit - OWN_FILES) // 4))
