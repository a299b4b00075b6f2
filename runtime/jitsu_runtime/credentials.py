"""Files that settings name for logging in: passwords, tokens, keys and certificates.

A setting holds a path. A name without a slash is a credential that systemd has passed to the unit (systemd.exec(5),
`LoadCredential=NAME:PATH`), which is a file in $CREDENTIALS_DIRECTORY. What is in a secret file is never logged, and is
part of no message.

Each function takes the name of the setting for its errors, and raises SetupFault.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORY_VARIABLE = "CREDENTIALS_DIRECTORY"
MAX_SECRET_BYTES = 64 << 10
"""Keys and certificates of the largest usual kinds have a tenth of that."""
OTHERS = 0o077
"""The rights of a file's group and of everybody else."""


def is_credential_of_systemd(named: str) -> bool:
    """Say whether a setting names a credential and not a path."""
    return "/" not in named


def file_named(named: str, setting: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of a file that a setting names."""
    if not is_credential_of_systemd(named):
        return Path(named)
    directory = environ.get(DIRECTORY_VARIABLE, "")
    if not directory:
        raise SetupFault(
            f"{setting}: {named!r} is a credential of systemd, and this process has none",
            hint=f"add LoadCredential={named}:PATH to its unit, or write a path with a slash",
        )
    if named in ("", ".", ".."):
        raise SetupFault(f"{setting}: {named!r} is not the name of a credential")
    return Path(directory, named)


def secret_file(named: str, setting: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of a secret file, for a library that reads it: others may not read it."""
    path = file_named(named, setting, environ)
    os.close(_opened(path, setting, is_closed=not is_credential_of_systemd(named)))
    return path


def read_secret(named: str, setting: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return what is in a secret file, without the end of its last line."""
    path = file_named(named, setting, environ)
    descriptor = _opened(path, setting, is_closed=not is_credential_of_systemd(named))
    try:
        data = os.read(descriptor, MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_SECRET_BYTES:
        raise SetupFault(f"{setting}: {path} has more than {MAX_SECRET_BYTES} bytes")
    try:
        secret = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SetupFault(f"{setting}: {path} is not text") from None
    if not secret:
        raise SetupFault(f"{setting}: {path} is empty")
    return secret


def _opened(path: Path, setting: str, *, is_closed: bool) -> int:
    """Open a file, which must be one that others may not read if `is_closed`.

    systemd keeps others from a whole directory of credentials, and gives the file to the unit's user by an ACL, which
    stat(2) shows as rights of the group.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SetupFault(f"{setting}: there is no file {path}") from None
    except OSError as error:
        raise SetupFault(f"{setting}: {path} cannot be read: {error.strerror}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) or (is_closed and mode & OTHERS):
        os.close(descriptor)
        if not stat.S_ISREG(mode):
            raise SetupFault(f"{setting}: {path} is not a file")
        raise SetupFault(f"{setting}: others may read {path}", hint=f"chmod 600 {path}")
    return descriptor
