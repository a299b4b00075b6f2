"""The callers of the API, and what each role may do.

A viewer may read. An operator may change. Everybody may end their own session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from jitsu_protocol.model.identity import via_web
from jitsu_protocol.model.tokens import TokenRole

MAX_USER_CHARACTERS = 64
_UNUSUAL = re.compile(r"[^A-Za-z0-9._@-]", re.ASCII)

API_ROLES: tuple[TokenRole, ...] = get_args(TokenRole)

READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class ApiCaller:
    """Somebody whose credentials were accepted."""

    name: str
    role: TokenRole
    via: Literal["token", "session", "socket"]
    digest: str = ""
    """Of the token; "" at the Unix socket."""
    csrf: str = ""
    """What a change by way of a session has to repeat in the header X-CSRF-Token."""

    @property
    def user(self) -> str:
        """The name in the form that other services accept (identity.py of the protocol)."""
        name = _UNUSUAL.sub("_", self.name)
        return (name if name[:1].isalnum() else f"u{name}")[:MAX_USER_CHARACTERS]

    @property
    def identity(self) -> str:
        """Return the name in commits, logs and traces: `operator:alice via web`."""
        return via_web(self.user)


def needed_role(method: str) -> TokenRole:
    """Return the least role that a request needs, by its method."""
    return "viewer" if method in READS else "operator"


def may(role: TokenRole, needed: TokenRole) -> bool:
    """Return whether somebody of a role may do what needs another one."""
    return API_ROLES.index(role) >= API_ROLES.index(needed)
