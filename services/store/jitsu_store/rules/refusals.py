"""Why a change is refused, as the errors that its caller gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import BadRequest, Conflict, Invalid, Refused
from jitsu_store.git.branches import is_branch_name

if TYPE_CHECKING:
    from jitsu_protocol.messages import Apply, Merge
    from jitsu_store.rules import merge

MAX_BRANCH_BYTES = 200
"""A part of a path has at most 255 on all file systems, and git needs room for `.lock` behind it."""
MAX_BRANCH_PARTS = 8
MAX_BRANCHES = 10_000
MAX_BRANCHES_OF_VM = 16
MAX_CONFLICTS_SHOWN = 20
MAX_MESSAGE_CHARACTERS = 4096
MAX_REQUEST_ID_CHARACTERS = 200


def refuse(reason: str) -> None:
    """Raise Refused if there is a reason."""
    if reason:
        raise Refused(reason)


def check_texts(request: Apply | Merge) -> None:
    """Raise BadRequest if a text of a request is too long."""
    if len(request.message) > MAX_MESSAGE_CHARACTERS or len(request.request) > MAX_REQUEST_ID_CHARACTERS:
        raise BadRequest(
            f"the message of a change has at most {MAX_MESSAGE_CHARACTERS} characters,"
            f" and the id of its request {MAX_REQUEST_ID_CHARACTERS}"
        )


def check_branch_name(name: str) -> None:
    """Raise BadRequest if the store makes no branch of this name."""
    if len(name.encode("utf-8", "replace")) > MAX_BRANCH_BYTES or name.count("/") >= MAX_BRANCH_PARTS:
        raise BadRequest(
            f"the name of a branch has at most {MAX_BRANCH_BYTES} bytes and {MAX_BRANCH_PARTS} parts,"
            f" unlike {name[:100]!r}",
            hint="choose a shorter name",
        )
    if not is_branch_name(name):
        raise BadRequest(f"{name[:100]!r} cannot be the name of a branch", hint="letters, digits, - _ . and / are safe")


def too_many(who: identity.Identity, branches: list[str]) -> str:
    """Return why there can be no further branch, or nothing."""
    if len(branches) >= MAX_BRANCHES:
        return f"there are {MAX_BRANCHES} branches already; delete some first"
    own = sum(name.startswith(who.name) for name in branches) if who.role is identity.Role.VM else 0
    return f"a VM has at most {MAX_BRANCHES_OF_VM} branches; delete some first" if own >= MAX_BRANCHES_OF_VM else ""


def invalid(reasons: list[str]) -> Invalid:
    """Return the error with every reason."""
    return Invalid("refused: " + "\n".join(reasons), details=[{"reason": reason} for reason in reasons])


def conflict(conflicts: list[merge.Conflicting], branch: str, into: str) -> Conflict:
    """Return the error that shows the values of both sides."""
    lines = [f"{branch} and {into} have both changed"]
    for each in conflicts[:MAX_CONFLICTS_SHOWN]:
        lines.append(
            f"  {each.path}: it was {shown(each.base)}, {into} has {shown(each.ours)}, {branch} {shown(each.theirs)}"
        )
    if len(conflicts) > MAX_CONFLICTS_SHOWN:
        lines.append(f"  and {len(conflicts) - MAX_CONFLICTS_SHOWN} more")
    details = [{"path": c.path, "base": c.base, "ours": c.ours, "theirs": c.theirs} for c in conflicts]
    return Conflict("\n".join(lines), hint=f"set them to the same value on {branch}, then merge again", details=details)


def unexpected(wrong: list[dict[str, str | None]]) -> Conflict:
    """Return the error that shows which values are not what a request expects."""
    lines = [f"{each['path']} is {shown(each['value'])}, not {shown(each['expected'])}" for each in wrong]
    return Conflict("\n".join(lines), details=wrong)


def shown(value: str | None) -> str:
    """Return a value as an error shows it."""
    return "nothing" if value is None else f'"{value}"'


def overlap(one: str, other: str) -> bool:
    """Say whether one name is that of a directory above the other."""
    return one.startswith(other + "/") or other.startswith(one + "/")
