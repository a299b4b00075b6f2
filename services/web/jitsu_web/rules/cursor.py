"""Pages of VMs. A cursor is the name and the UUID of the last VM of a page, so that a page begins at the right place
even if VMs have come or gone in the meantime.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING

from jitsu_web.rules.problems import HttpProblem

if TYPE_CHECKING:
    from collections.abc import Collection

    from jitsu_web.rules.board import Board


def encoded(name: str, uuid: str) -> str:
    """Return the cursor after a VM."""
    return base64.urlsafe_b64encode(json.dumps([name, uuid]).encode()).decode().rstrip("=")


def decoded(cursor: str) -> tuple[str, str]:
    """Return the name and the UUID in a cursor; raises HttpProblem."""
    try:
        match json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)):
            case [str(name), str(uuid)]:
                return name, uuid
    except (binascii.Error, ValueError):
        pass
    raise HttpProblem(400, "this cursor is not one of ours", "use `next` of the page before, or none to begin")


def page_of(
    board: Board, cursor: str, limit: int, *, states: Collection[str] = (), name: str = ""
) -> tuple[list[str], str | None]:
    """Return the UUIDs of a page, and the cursor of the next one if there is more."""
    after = decoded(cursor) if cursor else ("", "")
    found = [
        (known, uuid)
        for known, uuid in board.by_name()
        if (known, uuid) > after
        and _is_meant(known, name)
        and (not states or (board.state(uuid) or "unknown") in states)
    ]
    page = found[:limit]
    following = encoded(*page[-1]) if page and len(found) > limit else None
    return [uuid for _, uuid in page], following


def _is_meant(known: str, name: str) -> bool:
    if name.endswith("*"):
        return known.lower().startswith(name[:-1].lower())
    return not name or known.lower() == name.lower()
