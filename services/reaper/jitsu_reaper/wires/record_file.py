"""The file in which the reaper keeps what is recorded for `jitsu why` (rules/record_lines.py says what it has).

It belongs to the reaper's user alone (mode 0600), grows by lines, and is rewritten when it has grown to twice its size.

    what happens                         what is left
    the reaper is killed                 every line that it has appended; a last one that is cut short does not count
    it is killed during a rewrite        the old file: the new one takes its place only when it is complete
    the machine loses power              what the kernel had written, up to there
    the file is damaged, or not ours     it is moved to NAME.set-aside, with a line in the log, and another is begun
    it cannot be written                 a line in the log; the record is kept in memory, and tried again a minute later
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from contextlib import suppress
from itertools import islice
from typing import IO, TYPE_CHECKING

import structlog

from jitsu_reaper.rules.record_lines import HEAD, MAX_LINE_CHARACTERS, all_lines, new_lines, restore

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_reaper.rules.recorded import Recorded

NAME = "reaper.why"
MIN_GROWTH_BYTES = 256 * 1024
MAX_BYTES = 256 * 1024 * 1024
"""A longer file is not one of ours: a record with all that may be in it has a tenth of that."""
STEP_LINES = 200
"""A rewrite lets others work after so many lines, which take some 2 ms."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_ANOTHER = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

log = structlog.get_logger("reaper")


class RecordFile:
    """The file."""

    def __init__(self, directory: Path, recorded: Recorded, *, is_own: bool = False) -> None:
        """`is_own`: the directory is the reaper's, which makes it if need be."""
        self._is_own = is_own
        self._path = directory / NAME
        self._recorded = recorded
        self._size = 0
        self._limit = MIN_GROWTH_BYTES
        self._is_whole = False
        """The file has all that is recorded, but for what is `unsaved`."""
        self._fails = False
        self._meanwhile: list[str] | None = None
        """What is appended while the file is rewritten."""
        self._turn = 0
        """Changes when a rewrite that is under way has become useless."""

    def load(self) -> None:
        """Take over what an earlier reaper recorded."""
        try:
            self._read()
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, RecursionError) as error:
            self._recorded.clear()
            self._set_aside(error)

    def _read(self) -> None:
        with os.fdopen(os.open(self._path, _READ), encoding="utf-8") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is not a regular file")
            if about.st_uid != os.geteuid():
                raise ValueError(f"it belongs to the user {about.st_uid}")
            if about.st_size > MAX_BYTES:
                raise ValueError(f"it has {about.st_size} bytes")
            if about.st_size and file.readline(MAX_LINE_CHARACTERS) != HEAD:
                raise ValueError("its first line is not that of a record")
            while line := file.readline(MAX_LINE_CHARACTERS + 1):
                if len(line) > MAX_LINE_CHARACTERS:
                    raise ValueError("it has a line that is too long")
                if not line.endswith("\n"):
                    break  # it was being written when the reaper died
                restore(self._recorded, line)

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_suffix(".set-aside")
        try:
            os.replace(self._path, aside)
        except OSError as fault:
            log.warning("cannot read the record of boots and clients, nor move it", reason=f"{error}; {fault}")
        else:
            log.warning(
                "the record of boots and clients cannot be read: it is set aside", file=str(aside), reason=str(error)
            )

    def append(self, clients: int = 0) -> bool:
        """Write what is new; return whether the whole file should be rewritten."""
        lines = new_lines(self._recorded, clients)
        if self._meanwhile is not None:
            self._meanwhile += lines
            return False
        if not self._is_whole:
            return True
        try:
            self._append("".join(lines).encode())
        except OSError as error:
            self._failed(error)
            return False
        return self._size > self._limit

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, _APPEND, 0o600)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        self._size += len(data)

    async def rewrite(self) -> None:
        """Write the whole file again, in steps; what is appended in the meantime is in the new one too."""
        if self._meanwhile is not None:
            return
        self._meanwhile, turn = [], self._turn
        try:
            with self._begun() as file:
                lines = all_lines(self._recorded)
                while step := list(islice(lines, STEP_LINES)):
                    file.write("".join(step))
                    await asyncio.sleep(0)
                    if turn != self._turn:
                        return
                file.write("".join(self._meanwhile))
                file.flush()
                self._size = os.fstat(file.fileno()).st_size
            os.replace(self._new, self._path)
            self._limit, self._is_whole, self._fails = 2 * self._size + MIN_GROWTH_BYTES, True, False
        except OSError as error:
            self._failed(error)
        finally:
            if turn == self._turn:
                self._meanwhile = None

    def save_all(self) -> None:
        """Write what is left, as the reaper stops; a rewrite that is under way is given up."""
        self._turn += 1
        self._meanwhile = None
        if self._is_whole:
            self.append(clients=len(self._recorded.unsaved.clients))
            return
        try:
            with self._begun() as file:
                file.writelines(all_lines(self._recorded))
            os.replace(self._new, self._path)
        except OSError as error:
            self._failed(error)

    def erase(self) -> None:
        """Leave no file with anything that was recorded; raises OSError."""
        self._turn += 1
        self._meanwhile, self._is_whole = None, False
        for path in (self._path, self._new, self._path.with_suffix(".set-aside")):
            with suppress(FileNotFoundError):
                path.unlink()

    @property
    def _new(self) -> Path:
        return self._path.with_suffix(".new")

    def _begun(self) -> IO[str]:
        if self._is_own:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            self._new.unlink()
        return os.fdopen(os.open(self._new, _ANOTHER, 0o600), "w", encoding="utf-8")

    def _failed(self, error: OSError) -> None:
        self._is_whole = False
        if not self._fails:
            reason = error.strerror or str(error)
            log.warning("cannot save the record of boots and clients", file=str(self._path), reason=reason)
        self._fails = True
