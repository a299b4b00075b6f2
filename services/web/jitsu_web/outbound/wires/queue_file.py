"""The file of the queue: mode 0600, appended to, and written again when it has grown to its limit.

What `append` has written survives the death of this process at any moment, because the kernel has it. It survives the
loss of power a second later, when `sync` has been called.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "events.queue"
FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

log = structlog.get_logger("web")


class QueueFile:
    """The open file."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        """Open the file, and make it if there is none; raises SetupFault."""
        self._path = directory / NAME
        self._limit = limit_bytes
        self._is_synced = True
        self.failures = 0
        """How often the file could not be written."""
        try:
            self._descriptor = os.open(self._path, FLAGS, 0o600)
            os.fchmod(self._descriptor, 0o600)
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise SetupFault(
                f"web.directory: {self._path} cannot be used: {error.strerror}", hint="only jitsu-web's user needs it"
            ) from None

    def read(self) -> bytes:
        """Return what is in the file; what is beyond any size that it can have is left out."""
        return os.pread(self._descriptor, 4 * self._limit, 0)

    def cut(self, size: int) -> None:
        """Shorten the file to its whole lines, so that the next one does not continue half a line."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def append(self, lines: bytes, compact: Callable[[], bytes]) -> bool:
        """Append lines, or write `compact()` to a new file instead if this one is full; returns False on failure."""
        if not lines:
            return True
        try:
            if self.size + len(lines) > self._limit:
                self._replace(compact())
                return True
            written = os.write(self._descriptor, lines)
            if written < len(lines):  # the disk is full: half a line must not stay
                os.ftruncate(self._descriptor, self.size)
                raise OSError(28, "No space left on device")
        except OSError as error:
            self.failures += 1
            log.error("event not recorded", path=str(self._path), reason=error.strerror)
            return False
        self.size += written
        self._is_synced = False
        return True

    def sync(self) -> None:
        """Have the disk keep what was appended; may block, so it is called on a thread."""
        if not self._is_synced:
            self._is_synced = True
            with suppress(OSError):  # the file was replaced in the meantime, and that one is on the disk
                os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _replace(self, data: bytes) -> None:
        scratch = self._path.with_suffix(".new")
        with suppress(FileNotFoundError):
            scratch.unlink()
        descriptor = os.open(scratch, FLAGS | os.O_EXCL, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
            scratch.rename(self._path)
        except OSError:
            os.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        os.close(old)
        self.size, self._is_synced = len(data), True
