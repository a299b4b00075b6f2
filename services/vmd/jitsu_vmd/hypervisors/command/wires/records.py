"""What a vmd that returns has to know of the commands of the one before it: a file for each VM, UUID, in memory.

A command that changes a VM goes on when vmd dies. Its record says which process it is, so that the next vmd neither
starts the VM a second time beside it nor lets it run forever. When a start has succeeded, the record says when: a VM
that has not appeared yet is not started again either (G1, G7).

The one line is `PID TICKS ACTION TIME`. PID is 0 once the command has ended. TICKS is when the process started, as in
proc(5), because process ids are used again. TIME is on the clock that never goes back.

vmd ends a process that such a file names. Other services may write into the runtime directory too, so only files in a
directory of vmd's own user are believed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from jitsu_vmd.hypervisors.shared.process_ids import process_stat

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger("vmd")


@dataclass(frozen=True)
class CommandRecord:
    """The last command that has changed a VM."""

    pid: int
    ticks: int
    action: str
    at: float
    """When it began, or for pid 0 when it has ended."""

    def runs(self) -> bool:
        """Say whether the process still runs."""
        return self.pid > 0 and _ticks(self.pid) == self.ticks


class CommandRecords:
    """The files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def began(self, vm: str, pid: int, action: str, now: float) -> None:
        """Write down that a command runs."""
        self._write(vm, f"{pid} {_ticks(pid)} {action} {now!r}")

    def succeeded(self, vm: str, action: str, now: float) -> None:
        """Write down that a command has ended as it should."""
        self._write(vm, f"0 0 {action} {now!r}")

    def remove(self, vm: str) -> None:
        """Remove a VM's file, if it has one."""
        with suppress(OSError):
            os.unlink(self._directory / vm)

    def read(self, vm: str) -> CommandRecord | None:
        """Return a VM's record, None if it has none that can be read."""
        if not self._is_own():
            return None
        try:
            pid, ticks, action, at = (self._directory / vm).read_text().split()
            return CommandRecord(int(pid), int(ticks), action, float(at))
        except (OSError, ValueError):
            return None

    def _is_own(self) -> bool:
        """Say whether nobody but this user and root can have written what is in the directory."""
        try:
            about = os.lstat(self._directory)
        except OSError:
            return False
        return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022

    def _write(self, vm: str, line: str) -> None:
        new = self._directory / f"{vm}.new"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_own():
                raise PermissionError(f"{self._directory} belongs to somebody else, or others may write to it")
            new.write_text(line)
            new.replace(self._directory / vm)
        except OSError as error:
            log.warning("cannot write down which command runs", vm=vm, reason=str(error))


def _ticks(pid: int) -> int:
    """Return when a process started, 0 if there is none or it has ended."""
    try:
        state, ticks = process_stat(pid)
    except OSError:
        return 0
    return 0 if state in "ZXx" else ticks
