"""Who calls the API, and what each role may do.

A viewer may read. An operator may change. Everybody may end their own session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ApiRole = Literal["viewer", "operator"]
API_ROLES: tuple[ApiRole, ...] = get_args(ApiRole)

READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class ApiCaller:
    """Somebody whose credentials were accepted."""

    name: str
    role: ApiRole
    via: Literal["token", "session", "socket"]
    csrf: str = ""
    """What a change by way of a session has to repeat in the header X-CSRF-Token."""

    @property
    def identity(self) -> str:
        """Who this is in commits, logs and traces."""
        return f"operator:{self.name} via web"


def needed_role(method: str) -> ApiRole:
    """Return the least role that a request needs, by its method."""
    return "viewer" if method in READS else "operator"


def may(role: ApiRole, needed: ApiRole) -> bool:
    """Return whether somebody of a role may do what needs another one."""
    return API_ROLES.index(role) >= API_ROLES.index(needed)
