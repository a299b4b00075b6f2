"""Files with which vmd logs in to hypervisors: whether they are there, and closed to others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding
from jitsu_runtime.credentials import OTHERS, is_credential_of_systemd

if TYPE_CHECKING:
    from jitsu.doctor.finding import Suite

TOPIC = "credentials"


@dataclass(frozen=True)
class CredentialFile:
    """A file that a setting names."""

    setting: str
    path: str
    mode: int | None
    """None: there is no such file."""
    is_secret: bool


def gather(suite: Suite) -> list[CredentialFile]:
    """Look at the files, as far as this user can; only vmd's own process can look at credentials of systemd."""
    found = []
    for connection in suite.settings.hypervisor.all_connections:
        secret = connection.credentials.secret_files
        for key, path in connection.credentials.files.items():
            if is_credential_of_systemd(path):
                continue
            try:
                mode: int | None = Path(path).stat().st_mode & 0o777
            except (FileNotFoundError, NotADirectoryError):
                mode = None
            except OSError:
                continue
            found.append(CredentialFile(connection.setting(key), path, mode, key in secret))
    return found


def judge(files: list[CredentialFile]) -> list[Finding]:
    """Find files that are missing, and secrets that are open to others."""
    found = []
    for each in files:
        if each.mode is None:
            what = f"{each.setting}: there is no file {each.path}"
            found.append(Finding(TOPIC, what, "vmd cannot log in without it: make it, or correct the path."))
        elif each.is_secret and each.mode & OTHERS:
            what = f"{each.setting}: others may read {each.path} (mode {each.mode:04o}), so vmd refuses to use it"
            found.append(Finding(TOPIC, what, f"`chmod 600 {each.path}`"))
    return found
