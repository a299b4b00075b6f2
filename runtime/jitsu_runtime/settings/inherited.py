"""wire: settings that a process hands to its children as an open file, instead of in environment or arguments.

Linux limits one environment variable or argument to 128 KiB (execve(2), MAX_ARG_STRLEN), and the environment of a
process can be read in /proc. A file in memory (memfd_create(2)) has no such limit, no name, and is gone with its last
reader.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

DESCRIPTOR_VARIABLE = "JITSU_SETTINGS_FD"
"""Number of the open file, which stays open: the settings are read again at SIGHUP."""


@contextlib.contextmanager
def handed_down(settings: Mapping[str, JsonValue]) -> Iterator[int]:
    """Write settings to a file in memory and yield its descriptor, for a child that is started in this block."""
    descriptor = os.memfd_create("jitsu-settings")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(json.dumps(settings).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def inherited_settings(environ: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the settings that this process was handed, none if it was not; raises OSError."""
    number = environ.get(DESCRIPTOR_VARIABLE, "")
    if not number.isdecimal():
        return {}
    descriptor = int(number)
    data, size = b"", os.fstat(descriptor).st_size
    while len(data) < size:
        data += os.pread(descriptor, size - len(data), len(data))  # its offset is shared with whoever else reads it
    settings = json.loads(data)
    assert isinstance(settings, dict)
    return settings
