"""What things are called in the runtime directory and on the host."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "solo5"
"""In the runtime directory."""
SOCKET, PID, LOCK = "launcher.sock", "launcher.pid", "launcher.lock"


def tap_prefix(directory: Path) -> str:
    """Return how the names of all taps of one launcher begin: they differ from those of another on the same host.

    The name of an interface has at most 15 characters.
    """
    return f"js{zlib.crc32(str(directory).encode()) & 0xFFFFFF:06x}-"
