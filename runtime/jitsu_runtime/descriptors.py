"""The limit on open files (getrlimit(2)), which each process raises as far as it may when it starts.

A shell gives its programs a soft limit of 1,024, which a thousand connections use up. If the hard limit is low too, the
bus accepts fewer connections (bus/door.py), and a dns replica fewer clients.
"""

from __future__ import annotations

import resource

WANTED = 65_536
"""Each connection of the bus and each TCP client of dns is an open file. No process of ours should need more."""
OWN_FILES = 160
"""How many files a process opens besides its connections."""
MAX_CONNECTIONS = 2_000
"""The most connections of one endpoint of the bus under any limit, because each needs memory too."""
LEAST_CONNECTIONS = 16


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit to `wanted`, or to the hard limit if that is lower, and return it. Never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def connections_allowed(limit: int | None = None) -> int:
    """Return how many connections one endpoint of the bus may have under a limit on open files (None: the current one).

    A service has two endpoints. Half of the descriptors for them stay free, for connections that libzmq accepts before
    a door (bus/door.py) has cut one, and for files that the service opens in the meantime.
    """
    if limit is None:
        limit = raise_limit(0)
    return min(MAX_CONNECTIONS, max(LEAST_CONNECTIONS, (limit - OWN_FILES) // 4))
