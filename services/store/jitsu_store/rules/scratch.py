"""Scratch branches: a command tries something on one, and nobody needs it once the command has ended.

A command deletes its scratch branch itself. The store deletes those of commands that were killed, or lost the store:

    not there  -- a request with `scratch` makes it -------------------> in use, for LEASE_S
    in use     -- the same request again ------------------------------> in use, for LEASE_S from now
    in use     -- the command deletes it by name ----------------------> not there
    in use     -- LEASE_S have passed ---------------------------------> not there: the store deletes it
    in use     -- a request without `scratch` for a branch of its name -> an ordinary branch, which stays
    ordinary   -- a request with `scratch` for a branch of its name ----> an ordinary branch

The list of them is on the disk before a branch is there, so a crash leaves no scratch branch that nobody knows of. A
store that starts goes on with the times of the list. So it deletes what is too old at once, and a command that is at
work while the store is restarted keeps its branch.

A name says nothing: a VM may call its own branches `<uuid>-trial-1`, and older commands ask for plain ones.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LEASE_S = 600.0
"""Ten times as long as a command waits for one answer of the store while it tries a merge."""


class ScratchBranches:
    """Which branches are scratch branches, and since when."""

    def __init__(self, since: Mapping[str, float] | None = None) -> None:
        self._since = dict(since or {})

    def __contains__(self, name: object) -> bool:
        """Say whether this is the name of a scratch branch."""
        return name in self._since

    def since(self) -> dict[str, float]:
        """Return all of them: name -> when it was last asked for, in Unix time."""
        return dict(self._since)

    def put(self, since: Mapping[str, float | None]) -> None:
        """Note when branches were asked for; None for branches that are gone, or are scratch branches no longer."""
        for name, at in since.items():
            if at is None:
                self._since.pop(name, None)
            else:
                self._since[name] = at

    def due(self, now: float) -> list[str]:
        """Return those that were asked for LEASE_S ago or longer."""
        for name, at in self._since.items():
            self._since[name] = min(at, now)  # the clock may have been set back
        return sorted(name for name, at in self._since.items() if now - at >= LEASE_S)


def must_be_written(written: Collection[str], wanted: Collection[str], there: Collection[str]) -> bool:
    """Say whether the list on the disk must be written again before branches are made.

    It must have each scratch branch, and no branch that stays. Names of branches that are not `there` do no harm.
    """
    return not set(wanted) <= set(written) or any(name in there for name in set(written) - set(wanted))


def encode(since: Mapping[str, float]) -> bytes:
    """Return the list as it is on the disk."""
    return json.dumps(since, indent=1, sort_keys=True).encode() + b"\n"


def decode(data: bytes) -> dict[str, float]:
    """Return the list that a file holds; raises ValueError if it holds something else."""
    found = json.loads(data)
    if not isinstance(found, dict) or not all(isinstance(at, int | float) for at in found.values()):
        raise ValueError("it is not an object of times by branch")
    return {str(name): float(at) for name, at in found.items()}
