"""The identity of a caller: an operator, a service, or a VM that changes its own configuration.

A process states its own identity. On ipc it is trusted, because only the user that runs the suite can open its runtime
directory.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from enum import StrEnum

from jitsu_protocol.model.errors import BadRequest

MAX_NAME_CHARACTERS = 128


class Role(StrEnum):
    """The kind of a caller."""

    OPERATOR = "operator"
    SERVICE = "service"
    VM = "vm"


@dataclass(frozen=True)
class Identity:
    """A caller; its text is `role:name`, which is also the author of the commits that it causes."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"


_VIA_WEB = re.compile(r"operator:[A-Za-z0-9][A-Za-z0-9._@-]{0,63} via web", re.ASCII)


def via_web(user: str) -> str:
    """Return the identity of a user of jitsu-web."""
    return f"{Role.OPERATOR}:{user} via web"


def is_via_web(text: str) -> bool:
    """Return whether an identity is that of a user of jitsu-web."""
    return _VIA_WEB.fullmatch(text) is not None


def parse(text: str) -> Identity:
    """Return the identity in a text; raises BadRequest. The name of a VM is its UUID."""
    role, _, name = text.partition(":")
    if role not in list(Role) or not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise BadRequest(f"{text[:100]!r} is not an identity", hint="operator:NAME, service:NAME or vm:UUID")
    if role == Role.VM:
        try:
            name = str(uuid.UUID(name))
        except ValueError:
            raise BadRequest(f"{name!r} is not a UUID", hint="a VM is named by its UUID") from None
    return Identity(Role(role), name)
