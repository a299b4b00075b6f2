"""The files in which suspended domains are kept. The name of a file says what may be done with it.

    NAME.new        a save that is being written, or was cut short: never restored; the next save replaces it
    NAME.save       complete, and the guest has not run since: the only kind that is restored
    NAME.restoring  given to `xl restore`, which has not ended: never restored again
    NAME.used       the guest may have run since: never restored
    NAME.creating   empty: a domain is being created and has not run. If it is paused, it may be incomplete

NAME is the VM's UUID. Each step is one rename (rename(2)), so after a crash at any moment a save has exactly one of
these names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = ("new", "save", "restoring", "used", "creating")
SAVED = ("save", "restoring", "used")
"""The suffixes of files that hold the memory of a guest."""


class Saves:
    """The files of all VMs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, vm: str, suffix: str) -> Path:
        """Return where a VM's file is, or would be."""
        return self._directory / f"{vm}.{suffix}"

    def all(self) -> dict[str, set[str]]:
        """Return which files each VM has."""
        found: dict[str, set[str]] = {}
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return found
        for name in names:
            vm, _, suffix = name.rpartition(".")
            if vm and suffix in SUFFIXES:
                found.setdefault(vm, set()).add(suffix)
        return found

    def make_directory(self) -> None:
        """Make the directory; only root may read the memory of guests."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin_creating(self, vm: str) -> None:
        """Note that a domain is about to be created."""
        self.make_directory()
        self.path(vm, "creating").touch()

    def becomes(self, vm: str, old: str, new: str) -> None:
        """Rename a VM's file, and return when that is on the disk."""
        self.path(vm, old).replace(self.path(vm, new))
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, vm: str, *suffixes: str) -> None:
        """Remove some of a VM's files, if they are there."""
        for suffix in suffixes:
            self.path(vm, suffix).unlink(missing_ok=True)
