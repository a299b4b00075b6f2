"""Which branches a repository has.

libgit2 lists references by walking directories, and ends without an error where they are some hundred levels deep. A
store that believed it would take all later branches, `master` among them, for missing. So they are listed here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jitsu_store.git.branches import BRANCHES, is_branch_name

if TYPE_CHECKING:
    from pathlib import Path


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
