"""The names of branches: what they may be, and which ones a repository has.

libgit2 lists references by walking directories, and ends without an error where they are some hundred levels deep:
a store that believes it takes all later branches, `master` among them, for missing. So they are listed here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pygit2

from jitsu_protocol.model.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

BRANCHES = "refs/heads/"
MAX_BRANCH_BYTES = 200
"""A part of a path has at most 255 on all file systems, and git needs room for `.lock` behind it."""
MAX_BRANCH_PARTS = 8


def is_branch_name(name: str) -> bool:
    """Say whether a branch may have this name (git-check-ref-format(1)); other programs make longer ones than we do."""
    return (
        bool(name) and name.isprintable() and name[0] != "-" and bool(pygit2.reference_is_valid_name(BRANCHES + name))
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


def branch_names(repository: Path) -> list[str]:
    """Return the names of all branches, sorted; raises OSError.

    Names that are not UTF-8 are left out: no request can name them.
    """
    names = set(_loose(repository / BRANCHES))
    try:
        packed = (repository / "packed-refs").read_bytes()
    except FileNotFoundError:
        packed = b""
    for line in packed.splitlines():
        id, _, name = line.decode("utf-8", "surrogateescape").partition(" ")
        if name.startswith(BRANCHES) and id[:1] not in "#^":
            names.add(name.removeprefix(BRANCHES))
    return sorted(name for name in names if is_branch_name(name))


def _loose(top: Path) -> list[str]:
    names: list[str] = []
    directories = [""]
    while directories:
        inside = directories.pop()
        try:
            with os.scandir(top / inside) as entries:
                for entry in entries:
                    (directories if entry.is_dir() else names).append(
                        f"{inside}/{entry.name}" if inside else entry.name
                    )
        except FileNotFoundError:
            continue  # git removes directories that have become empty
    return names
