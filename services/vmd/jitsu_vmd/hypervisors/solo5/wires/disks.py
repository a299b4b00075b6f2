"""The files of VMs' disks: each belongs to the user of its VM while that is configured, and no other can open it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def give(path: str, user: int) -> None:
    """Let a user, and nobody else but root, read and write a file or block device; raises OSError."""
    descriptor = _opened(path)
    try:
        about = os.fstat(descriptor)
        if about.st_uid != user:
            os.fchown(descriptor, user, -1)
        if stat.S_IMODE(about.st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def take_back(path: str, user: int) -> None:
    """Let root have a file again, if it is still the user's."""
    with suppress(OSError):
        descriptor = _opened(path)
        try:
            if os.fstat(descriptor).st_uid == user:
                os.fchown(descriptor, 0, -1)
        finally:
            os.close(descriptor)


def _opened(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise OSError(22, "it is neither a file nor a block device", path)
    return descriptor
