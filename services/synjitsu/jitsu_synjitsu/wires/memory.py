"""The connections that are open, in a file of the runtime directory: a Synjitsu that is started again knows them.

The file is a sequence of msgpack objects: first a dict of all VMs, as it was when the file was last rewritten, then for
each VM of which something has changed a pair of its UUID and what is known now (nil: it no longer runs). So a save
costs what has changed, and not what all VMs have. A last object that is cut short was being written when Synjitsu
died, and counts for nothing.
"""

from __future__ import annotations

import errno
import os
from typing import IO, TYPE_CHECKING, Any

import msgpack
import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.rules.running import Connection, Known

MIN_GROWTH_BYTES = 256 * 1024
"""The file is rewritten when it has grown by that much, and to twice the size that it had then."""
MAX_OBJECT_BYTES = 1024 * 1024 * 1024
"""Of what is read: 10,000 VMs with all the connections that are kept."""

log = structlog.get_logger("synjitsu")


class Memory:
    """The file."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read it, if there is one; what it says of a VM counts until something is reported of that VM."""
        self._path = path
        self._known: dict[str, Known] = {}
        """What the file contains, or is to contain."""
        self._untaken: set[str] = set()
        """VMs that were read, and not heard of since."""
        self._size = self._limit = 0
        self._is_whole = True
        """The file has all that is known, unless it was not written by this process yet."""
        self._written_at = float("-inf")
        """When the file was written that was read, by the clock."""
        try:
            with path.open("rb") as file:
                self._known = _read(file)
                self._written_at = clock.now() - (clock.wall() - os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, msgpack.UnpackException) as error:
            log.warning("cannot read which connections were open before", file=str(path), reason=str(error))
        self._untaken = set(self._known)

    def take(self, vm: str, up_since: float) -> Known | None:
        """Return what was known of a VM that has been up since then, once.

        Nothing if it has been started since the file was written: its connections of before are over.
        """
        if vm not in self._untaken:
            return None
        self._untaken.discard(vm)
        known = self._known.pop(vm)
        return known if up_since <= self._written_at else None

    def save(self, changes: Mapping[str, Known | None]) -> None:
        """Write what has changed; what was read and not taken stays."""
        if not changes and self._is_whole:
            return
        self._untaken -= changes.keys()
        for vm, known in changes.items():
            if known is None:
                self._known.pop(vm, None)
            else:
                self._known[vm] = known
        data = b"".join(msgpack.packb(change) for change in changes.items())
        is_long = self._size + len(data) > self._limit
        try:
            if is_long or not self._is_whole:
                self._rewrite()
            else:
                self._append(data)
        except OSError as error:
            self._is_whole = False
            log.warning("cannot save which connections are open", file=str(self._path), reason=error.strerror)

    def _append(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(data)

    def _rewrite(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        data = msgpack.packb(self._known)
        new.write_bytes(data)
        new.replace(self._path)
        self._size, self._limit, self._is_whole = len(data), 2 * len(data) + MIN_GROWTH_BYTES, True


def _read(file: IO[bytes]) -> dict[str, Known]:
    objects = msgpack.Unpacker(file, max_buffer_size=MAX_OBJECT_BYTES)
    try:
        first = objects.unpack()
    except msgpack.OutOfData:
        raise ValueError("the file is empty or cut short") from None
    known = {str(vm): _parsed(data) for vm, data in dict(first).items()}
    for vm, data in objects:
        if data is None:
            known.pop(str(vm), None)
        else:
            known[str(vm)] = _parsed(data)
    return known


def _parsed(data: Any) -> Known:
    connections, maybe_more, *more = data
    return _connections(connections), bool(maybe_more), _connections(more[0] if more else ())  # an older file has none


def _connections(data: Any) -> list[Connection]:
    return [(bytes(a), int(b), bytes(c), int(d)) for a, b, c, d in data]
