"""The limit of open files (getrlimit(2)): raised to what is configured, as far as this process may."""

from __future__ import annotations

import resource


def raised_to(wanted: int) -> int:
    """Raise the soft limit to `wanted` or to the hard limit; return what it is now. It is never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
