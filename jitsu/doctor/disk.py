"""Disk space: where the suite writes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu.doctor.finding import Suite

TOPIC = "disk"
MIN_FREE_BYTES = 100 * 1024 * 1024
"""The store repacks its repository, which needs as much again as that has."""
MIN_FREE_SOCKETS_BYTES = 1024 * 1024
"""The runtime directory holds sockets and a few small files."""
MIN_FREE_INODES = 1000


@dataclass(frozen=True)
class Place:
    """A directory that the suite writes to, or the nearest one above that is there."""

    key: str
    path: str
    free_bytes: int
    free_inodes: int | None
    """None where the file system has no limit."""
    min_bytes: int = MIN_FREE_BYTES
    is_read_only: bool = False


def gather(suite: Suite) -> list[Place]:
    """Look at the file systems."""
    found = []
    for key, path, least in _places(suite):
        with suppress(OSError):
            at = next(each for each in (path, *path.parents) if each.exists())
            status = os.statvfs(at)
            inodes = status.f_favail if status.f_files else None
            read_only = bool(status.f_flag & os.ST_RDONLY)
            found.append(Place(key, str(path), status.f_bavail * status.f_frsize, inodes, least, read_only))
    return found


def _places(suite: Suite) -> Iterator[tuple[str, Path, int]]:
    settings = suite.settings
    yield "bus.runtime_dir", settings.bus.directory.absolute(), MIN_FREE_SOCKETS_BYTES
    if settings.store.path:
        yield "store.path", Path(settings.store.path).absolute(), MIN_FREE_BYTES
    if settings.hypervisor.kind == "libxl":
        yield "hypervisor.save_directory", Path(settings.hypervisor.save_directory), MIN_FREE_BYTES


def judge(places: list[Place]) -> list[Finding]:
    """Find file systems that are full, or almost."""
    found = []
    for place in places:
        where = f"{place.path} ({place.key})"
        if place.is_read_only:
            found.append(
                Finding(TOPIC, f"{where} is on a read-only file system", "Mount it so that it can be written.")
            )
        elif place.free_bytes < place.min_bytes:
            free, least = _mib(place.free_bytes), _mib(place.min_bytes)
            what = f"{where} has {free} MiB free, and should have {least}"
            found.append(Finding(TOPIC, what, f"Free some space, or set {place.key} to another file system."))
        elif place.free_inodes is not None and place.free_inodes < MIN_FREE_INODES:
            what = f"{where} is on a file system with room for only {place.free_inodes} more files"
            found.append(Finding(TOPIC, what, f"Remove files there, or set {place.key} to another file system."))
    return found


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.1f}".removesuffix(".0")
