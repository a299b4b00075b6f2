"""The file in which a replica keeps what it knows of the store, so that it can answer at once after a restart.

The file is a list of msgpack objects: a head, [UUID, LEAVES] for each VM, and an end. Without the end, it is not used.
It is written a few VMs at a time, so that queries are answered in between. The head names the commit with which writing
began; what is in the file is what the store had then or later.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack
import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "jitsu-dns names 1"
END = "end"
VMS_AT_ONCE = 100
"""VMs that are written in one go, about 1 ms of work."""
MAX_FILE_BYTES = 1 << 30

log = structlog.get_logger("dns")


@dataclass(frozen=True)
class Remembered:
    """What is in the file."""

    commit: str
    serial: int
    leaves: dict[str, dict[str, str]]


class NamesFile:
    """The file of one replica."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_logged = False

    def read(self) -> Remembered | None:
        """Return what an earlier run has left; None if there is nothing, or nothing that can be used."""
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("cannot read the names that an earlier jitsu-dns kept", file=str(self._path), reason=str(error))
            return None

    def _read(self) -> Remembered:
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise ValueError("another user may write to it")
            unpacker = msgpack.Unpacker(file, max_buffer_size=MAX_FILE_BYTES)
            head = next(unpacker, None)
            if not isinstance(head, list) or len(head) != 3 or head[0] != FORMAT:
                raise ValueError("it is of another version")
            commit, serial = str(head[1]), int(head[2])
            leaves: dict[str, dict[str, str]] = {}
            for entry in unpacker:
                if entry == END:
                    return Remembered(commit, serial, leaves)
                uuid, own = entry
                leaves[_text(uuid)] = {_text(leaf): _text(value) for leaf, value in own.items()}
            raise ValueError("it ends too early")

    async def write(self, commit: str, serial: int, leaves: Mapping[str, Mapping[str, str]]) -> None:
        """Write what is known now."""
        new = self._path.with_suffix(".new")
        entries = list(leaves.items())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgpack.packb([FORMAT, commit, serial]))
                for begin in range(0, len(entries), VMS_AT_ONCE):
                    file.write(b"".join(msgpack.packb([*entry]) for entry in entries[begin : begin + VMS_AT_ONCE]))
                    await asyncio.sleep(0)
                file.write(msgpack.packb(END))
            new.replace(self._path)
        except OSError as error:
            if not self._is_logged:
                log.info(
                    "cannot keep the names for the next start, which will take longer",
                    file=str(new),
                    reason=error.strerror,
                )
            self._is_logged = True


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
