"""The console of each guest: a named pipe that its tender writes to, and a bounded file that the launcher copies it to.

A pipe, because a guest that prints without end must fill neither a disk nor the memory. What does not fit into the pipe
is dropped: it is opened so that a write never waits. It has a name and the tender itself holds both of its ends, so a
launcher that dies costs the tender nothing, and the next launcher opens the pipe again.

    UUID.tty          the pipe
    UUID.console      the latest of what was printed; UUID.console.1 what came before that

This module is imported by the launcher, which is to stay small: it uses the standard library only.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 64 * 1024
"""Of each of the two files."""
READ_BYTES = 64 * 1024
"""As much as a pipe holds (pipe(7))."""
REST_S = 0.05
"""From one read of a console to the next: a guest that prints without end costs 1.3 MB/s of copying at most."""
TAIL_BYTES = 2048


class Console:
    """What one guest prints."""

    def __init__(self, directory: Path, uuid: str) -> None:
        self._pipe = f"{directory}/{uuid}.tty"
        self._file = f"{directory}/{uuid}.console"
        self.descriptor = -1

    def open(self) -> int:
        """Open the pipe, which is made if there is none; raises OSError."""
        with suppress(FileExistsError):
            os.mkfifo(self._pipe, 0o600)
        self.descriptor = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self.descriptor

    def drain(self) -> None:
        """Copy what is in the pipe to the file."""
        with suppress(BlockingIOError):
            self._append(os.read(self.descriptor, READ_BYTES))

    def _append(self, printed: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError):  # a full disk must not end other guests
            descriptor = os.open(self._file, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size + len(printed) > MAX_FILE_BYTES:
                    os.rename(self._file, f"{self._file}.1")
                    os.close(descriptor)
                    descriptor = os.open(self._file, flags, 0o600)
                os.write(descriptor, printed[-MAX_FILE_BYTES:])
            finally:
                os.close(descriptor)

    def tail(self) -> bytes:
        """Return the end of what was printed."""
        printed = b""
        for path in (self._file, f"{self._file}.1"):
            with suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                printed = file.read() + printed
            if len(printed) >= TAIL_BYTES:
                break
        return printed[-TAIL_BYTES:]

    def close(self) -> None:
        """Close the pipe, after a last look into it."""
        if self.descriptor >= 0:
            self.drain()
            os.close(self.descriptor)
            self.descriptor = -1

    def remove(self) -> None:
        """Remove the pipe and the files."""
        for path in (self._pipe, self._file, f"{self._file}.1"):
            with suppress(OSError):
                os.unlink(path)
