"""What each guest was started as, in a file for each, for a vmd that returns.

A file is written before the start call is made, and removed once the guest is seen to be off. So a vmd that was down
while the configuration changed still finds the guests of before, and stops those that may not go on running (G7).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from jitsu_protocol.model.vm import VM

if TYPE_CHECKING:
    from pathlib import Path

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC

log = structlog.get_logger("vmd")


class StartedFiles:
    """The files, by the UUID of their VM."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unread: set[str] = set()
        self._fails = False
        try:
            self._unread = {name for name in os.listdir(directory) if not name.endswith(".new")}
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(error)

    def unread(self) -> list[str]:
        """Return the VMs whose file was found and has not been read since."""
        return sorted(self._unread)

    def recall(self, vm: str) -> VM | None:
        """Return what the vmd before this one started a VM's guest as; None if it did not, or if that was read."""
        if vm not in self._unread:
            return None
        self._unread.discard(vm)
        try:
            started = VM.model_validate_json((self._directory / vm).read_bytes())
        except (OSError, ValidationError) as error:
            log.warning("cannot read how its guest was started", vm=vm[:64], reason=str(error)[:200])
            return None
        return started if started.uuid == vm else None

    def save(self, vm: str, started: VM | None) -> None:
        """Write what a VM's guest was started as, or remove the file: it is off."""
        try:
            if started is None:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._directory}/{vm}")
            else:
                self._write(vm, started.model_dump_json().encode())
        except OSError as error:
            self._warn(error)
        else:
            self._fails = False

    def _write(self, vm: str, content: bytes) -> None:
        """Write a file of which a reader never finds half. Each boot does this, so there is no pathlib in it."""
        path = f"{self._directory}/{vm}"
        new = f"{path}.new"
        try:
            file = os.open(new, _CREATE, 0o600)
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700)
            file = os.open(new, _CREATE, 0o600)
        try:
            os.write(file, content)  # a few KiB to a file system in memory
        finally:
            os.close(file)
        os.replace(new, path)

    def _warn(self, error: OSError) -> None:
        if not self._fails:
            log.warning(
                "cannot save how guests were started: vmd may not know them after its next start", reason=str(error)
            )
        self._fails = True
