"""Paths and leaves of the state tree: what a path may be, what is below it, which path somebody may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_protocol.messages import Change

MAX_PATH_CHARACTERS = 1024
MAX_COMPONENT_CHARACTERS = 255
MAX_VALUE_CHARACTERS = 1024 * 1024  # a domain's whole XML is a tenth of that

TOPICS = {"vm": "jitsu/vm/", "stats": "jitsu/stats/"}
"""Topic of the feed -> what it carries the changes of."""

Leaves = dict[str, str]


def clean(path: str) -> str:
    """Return a path without the slashes around it."""
    return path.strip("/")


def path_fault(path: str) -> str:
    """Return why this cannot be the path of a leaf, or nothing (gitformat-tree rules, and our bounds)."""
    if not path or len(path) > MAX_PATH_CHARACTERS:
        return f"a path has 1 to {MAX_PATH_CHARACTERS} characters"
    for part in path.split("/"):
        if part in ("", ".", "..") or part.lower() == ".git" or len(part) > MAX_COMPONENT_CHARACTERS:
            return f"{path!r} has a part that cannot be a file name"
        if not part.isprintable():
            return f"{path!r} has a character that cannot be printed"
    return ""


def below(leaves: Mapping[str, str], prefix: str) -> Leaves:
    """Return the leaf at a path and all leaves below it."""
    prefix = clean(prefix)
    if not prefix:
        return dict(leaves)
    start = prefix + "/"
    return {path: value for path, value in leaves.items() if path == prefix or path.startswith(start)}


def directories(paths: Iterable[str]) -> set[str]:
    """Return every path that has a leaf below it."""
    found: set[str] = set()
    for path in paths:
        cut = path.rfind("/")
        while cut > 0 and path[:cut] not in found:
            found.add(path[:cut])
            cut = path.rfind("/", 0, cut)
    return found


def blocked(leaves: Mapping[str, str], directories: set[str], path: str) -> str:
    """Return why no leaf can be at this path while these are: one is above it, or some are below."""
    parts = path.split("/")
    for length in range(1, len(parts)):
        above = "/".join(parts[:length])
        if above in leaves:
            return f"{above} is a value, so nothing can be below it"
    if path in directories:
        return f"{path} has values below it, so it cannot be one"
    return ""


def nearest(paths: Iterable[str], path: str) -> str:
    """Return the hint that names the existing path most like this one."""
    close = difflib.get_close_matches(path, list(paths), n=1)
    return f"did you mean {close[0]}?" if close else ""


def changed(leaves: Mapping[str, str], changes: Iterable[Change]) -> dict[str, str | None]:
    """Return the changes that make a difference, the last one for each path."""
    wanted = {clean(change.path): change.value for change in changes}
    return {path: value for path, value in wanted.items() if leaves.get(path) != value}
