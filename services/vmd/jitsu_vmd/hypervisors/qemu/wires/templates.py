"""The memory of templates: a copy of a saved guest's RAM that nobody can write to, for all clones that are made of it.

It is a file in memory (memfd_create(2)) with the seal F_SEAL_WRITE: a process may map it privately, and the kernel
refuses everything else, whoever asks. It is made when the first clone starts, in the time that it takes to read the
file, and kept as long as the template's save is the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.qemu.rules.life import SaveState
from jitsu_vmd.hypervisors.qemu.rules.overlay import MAX_BYTES, overlay, overlay_bytes, size_of_qcow2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from jitsu_vmd.hypervisors.qemu.wires.saves import GuestSaves

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class _Copy:
    """The memory of one template."""

    save: tuple[int, int]
    """Which save it belongs to: the number of the file with the state of the devices, and its time."""
    descriptor: int


class TemplateMemory:
    """The copies that there are, by the template's uuid."""

    def __init__(self, saves: GuestSaves, run: Callable[[Callable[[], int]], Awaitable[int]]) -> None:
        """`run` calls a function that blocks, in a thread."""
        self._saves = saves
        self._run = run
        self._copies: dict[str, _Copy] = {}

    async def of(self, template: str) -> int:
        """Return the descriptor of a saved template's memory, which stays ours; raises OSError."""
        save = self._save(template)
        self.drop_old()
        if template not in self._copies:
            ram = self._saves.ram(template)
            descriptor = await self._run(lambda: sealed_copy(ram))
            self._copies[template] = _Copy(save, descriptor)
        return self._copies[template].descriptor

    def drop_old(self) -> None:
        """Drop the copies of saves that are not there any longer. Clones that have one keep it."""
        for template, copy in list(self._copies.items()):
            try:
                is_there = self._save(template) == copy.save
            except OSError:
                is_there = False
            if not is_there:
                os.close(self._copies.pop(template).descriptor)

    def close(self) -> None:
        """Drop all copies."""
        while self._copies:
            os.close(self._copies.popitem()[1].descriptor)

    def _save(self, template: str) -> tuple[int, int]:
        found = self._saves.path(template, SaveState.SAVED).stat()
        return found.st_ino, found.st_mtime_ns


def sealed_copy(path: Path) -> int:
    """Return a descriptor of a copy in memory that cannot be changed; what is a hole stays one. Raises OSError."""
    copy = os.memfd_create("jitsu-template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            os.truncate(copy, size)
            at = 0
            while at < size:
                try:
                    at = os.lseek(source.fileno(), at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:  # there is only a hole up to the end
                        raise
                    break
                until = os.lseek(source.fileno(), at, os.SEEK_HOLE)
                os.lseek(copy, at, os.SEEK_SET)
                while at < until:
                    if not (sent := os.sendfile(copy, source.fileno(), at, until - at)):
                        raise OSError(errno.EIO, "it has become shorter", str(path))
                    at += sent
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(copy)
        raise
    return copy


def private_overlay(disk: str, image_format: str, directory: Path) -> int:
    """Return the descriptor of an empty overlay over a disk; it is on no directory. Raises OSError or ValueError."""
    with open(disk, "rb") as below:
        size = size_of_qcow2(below.read(64)) if image_format == "qcow2" else below.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise ValueError(f"{disk} is too large")
    with tempfile.TemporaryFile(dir=directory) as made:
        made.write(overlay(size))
        made.truncate(overlay_bytes(size))
        made.flush()
        return os.dup(made.fileno())


def private_copy(path: str, directory: Path) -> int:
    """Return the descriptor of a copy of a small file; it is on no directory. Raises OSError."""
    with open(path, "rb") as source, tempfile.TemporaryFile(dir=directory) as made:
        made.write(source.read())
        made.flush()
        return os.dup(made.fileno())
