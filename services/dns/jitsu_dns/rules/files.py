"""How many files each part of a replica may have open, given how many the process may."""

from __future__ import annotations

from dataclasses import dataclass

OWN_FILES = 120
"""Beside clients and forwarded questions: the bus, logs, the sockets that listen."""
FILES_PER_HOST = 10
"""Of the bus, for each further host with a vmd."""
LEAST = 8
"""Each part gets at least so many, whatever the limit is."""


@dataclass(frozen=True)
class Files:
    """What the limit of open files is divided into."""

    tcp: int
    """TCP connections of clients."""
    forwards: int
    """Questions to other servers, each with a socket of its own."""
    wanted: int
    """What the limit would have to be for all that is configured."""

    def shortage(self, limit: int, max_tcp: int) -> str:
        """Say what is wrong and what to do, if the limit is too low for what is configured."""
        if limit >= self.wanted:
            return ""
        return (
            f"this process may have {limit} files open, but dns.max_tcp = {max_tcp} and forwarding need {self.wanted}: "
            f"at most {self.tcp} TCP connections and {self.forwards} forwarded questions are served at once; "
            f"set LimitNOFILE={self.wanted} in the unit, `ulimit -Hn {self.wanted}` before the start, "
            "or a lower dns.max_tcp"
        )


def divided(limit: int, max_tcp: int, max_forwards: int, hosts: int = 0) -> Files:
    """Divide a limit of open files; if it is too low, each part gives up the same share."""
    own = OWN_FILES + FILES_PER_HOST * hosts
    wanted = own + max_tcp + max_forwards
    if limit >= wanted:
        return Files(max_tcp, max_forwards, wanted)
    share = max(0.0, (limit - own) / (max_tcp + max_forwards))
    tcp = min(max_tcp, max(LEAST, int(share * max_tcp)))
    return Files(tcp, min(max_forwards, max(LEAST, int(share * max_forwards))), wanted)
