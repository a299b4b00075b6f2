"""Images on disk: what each says about itself, read again when the file has changed; and who can read a file."""

from __future__ import annotations

import os
import subprocess
from functools import partial

from jitsu_vmd.hypervisors.solo5.rules.manifest import Manifest, ManifestFault, manifest_of_tool, read_manifest

MAX_KNOWN = 10_000
TOOL_LIMIT_S = 2.0
_Key = tuple[str, int, int, int, int, str]


class SoloImages:
    """The images that were looked into."""

    def __init__(self) -> None:
        self._known: dict[_Key, Manifest | ManifestFault] = {}
        """File, and what tells whether it has changed -> its manifest, or what is wrong with it."""

    def manifest(self, path: str, tool: str = "") -> Manifest:
        """Return what an image says about itself; raises ManifestFault.

        `tool` is a solo5-elftool, which is asked once about an image that cannot be understood here.
        """
        try:
            about = os.stat(path)
            key = (path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, tool)
            if key not in self._known:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[key] = _look(path, tool)
        except OSError as error:
            raise ManifestFault(f"it cannot be read: {error.strerror}") from None
        found = self._known[key]
        if isinstance(found, ManifestFault):
            raise found
        return found


def _look(path: str, tool: str) -> Manifest | ManifestFault:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_manifest(partial(_read_at, descriptor))
    except ManifestFault as fault:
        return (_asked(tool, path) if tool else None) or fault
    finally:
        os.close(descriptor)


def _asked(tool: str, path: str) -> Manifest | None:
    """Ask Solo5's tool; None if it does not understand the image either."""
    printed = []
    for question in ("query-manifest", "query-abi"):
        try:
            done = subprocess.run(
                [tool, question, path], capture_output=True, text=True, timeout=TOOL_LIMIT_S, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        printed.append(done.stdout)
    try:
        return manifest_of_tool(*printed)
    except ManifestFault:
        return None


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    except (OSError, OverflowError):
        raise ManifestFault("its ELF headers are damaged") from None
