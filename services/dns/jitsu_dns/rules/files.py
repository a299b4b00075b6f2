"""How many files each part of a replica may have open, given how many the process may."""

from __future__ import annotations

from dataclasses import dataclass

OWN_FILES = 120
"""For everything but clients and forwarded questions: the bus, logs, the sockets that listen."""
FILES_PER_HOST = 10
"""For the bus, for each additional host with a vmd."""
LEAST = 8
"""Each part gets at least this many, whatever the limit is."""


@dataclass(frozen=True)
class Files:
    """How the limit of open files is divided."""

    tcp: int
    """TCP connections of clients."""
    forwards: int
    """Questions to other servers, each with a socket of its own."""
    wanted: int
    """The limit that everything that is configured would need."""

    def shortage(self, limit: int, max_tcp: int) -> str:
        """Return what is wrong and what to do about it, or nothing if the limit is high enough."""
        if limit >= self.wanted:
            return ""
        return (
            f"this process may have {limit} files open, but dns.max_tcp = {max_tcp} and forwarding need {self.wanted}: "
            f"at most {self.tcp} TCP connections and {self.forwards} forwarded questions are served at once; "
            f"set LimitNOFILE={self.wanted} in the unit, `ulimit -Hn {self.wanted}` before the start, "
            "or a lower dns.max_tcp"
        )


def divided(limit: int, max_tcp: int, max_forwards: int, hosts: int = 0) -> Files:
    """Divide a limit of open files. If it is too low, each part gets the same share of what it wants."""
    own = OWN_FILES + FILES_PER_HOST * hosts
    wanted = own + max_tcp + max_forwards
    if limit >= wanted:
        return Files(max_tcp, max_forwards, wanted)
    share = max(0.0, (limit - own) / (max_tcp + max_forwards))
    tcp = min(max_tcp, max(LEAST, int(share * max_tcp)))
    return Files(tcp, min(max_forwards, max(LEAST, int(share * max_forwards))), wanted)
