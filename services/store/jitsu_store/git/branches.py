"""The names that branches may have."""

from __future__ import annotations

import re

BRANCHES = "refs/heads/"
_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|\.lock(/|$)|^/|/$|\.$")
"""What no reference may have in its name (git-check-ref-format(1))."""


def is_branch_name(name: str) -> bool:
    """Say whether a branch may have this name; other programs make longer ones than the store does."""
    return bool(name) and name.isprintable() and name[0] != "-" and not _NEVER.search(name)
