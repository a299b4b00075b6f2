"""Files that say which saved state may have been used already.

Proxmox VE lets a guest run before it removes the saved memory that the guest was restored from. If a node dies in
between, the saved memory is still there, but the disks are newer: to restore it again would destroy data. So vmd makes
a file, UUID.restoring, before it has a VM restored, and removes it when the VM runs and its saved memory is gone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class RestoreMarks:
    """The files of all VMs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, vm: str) -> bool:
        """Say whether a VM's saved state may have been used."""
        return self._path(vm).exists()

    def begin(self, vm: str) -> None:
        """Note that a VM is about to be restored, and return when that is on the disk; raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(vm).touch()
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def end(self, vm: str) -> None:
        """Note that a VM has no saved state any longer, or that its guest has not run."""
        self._path(vm).unlink(missing_ok=True)

    def _path(self, vm: str) -> Path:
        return self._directory / f"{vm}.restoring"
