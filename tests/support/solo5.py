"""Solo5 images as their ELF notes make them, and a tender that does nothing; where tenders may read files."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TENDER = """#!/bin/sh
# A tender that takes Solo5's command line, prints it, and does as the last word says.
echo "$@"
for word in "$@"; do :; done
case "$word" in
exit) exit 0 ;;
abort) echo "Solo5: ABORT: the heap is full"; exit 255 ;;
chatter) while :; do echo "the same again and again and again and again"; done ;;
esac
exec sleep 600
"""


def image(target: int = 2, networks: Sequence[str] = (), blocks: Sequence[str] = ()) -> bytes:
    """Return an ELF file with nothing but the two notes of Solo5."""
    devices = [("", 1 << 30), *((name, 2) for name in networks), *((name, 1) for name in blocks)]
    entries = b"".join(struct.pack("<68sI", name.encode(), kind).ljust(104, b"\0") for name, kind in devices)
    notes = [
        _note(0x31494241, struct.pack("<IIII", target, 1, 0, 0)),
        _note(0x3154464D, bytes(4) + struct.pack("<II", 1, len(devices)) + entries),
    ]
    at = 64 + 56 * len(notes)
    headers, body = b"", b""
    for note in notes:
        headers += struct.pack("<IIQQQQQQ", 4, 4, at + len(body), 0, 0, len(note), len(note), 4)
        body += note
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(notes), 0, 0, 0) + headers + body


def _note(kind: int, content: bytes) -> bytes:
    return struct.pack("<III8s", 6, len(content), kind, b"Solo5") + content


def written(path: Path, data: bytes) -> Path:
    """Write a file that every user may read."""
    path.write_bytes(data)
    path.chmod(0o644)
    return path


def end_launcher(runtime: Path) -> None:
    """Ask the launcher of a runtime directory to end, and wait for that."""
    directory = runtime / "solo5"
    with suppress(OSError, ValueError):
        os.kill(int((directory / "launcher.pid").read_text()), signal.SIGTERM)
        wait_for(lambda: not (directory / "launcher.pid").exists(), 10.0, "the launcher ends")


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory whose files every user may read, as those of tenders must be; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="jitsu-solo5-"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


def tender(directory: Path) -> Path:
    """Write the tender that does nothing."""
    path = directory / "solo5-spt"
    path.write_text(TENDER)
    path.chmod(0o755)
    return path
