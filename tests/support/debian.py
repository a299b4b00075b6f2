"""Programs of other makers that a test needs: installed from Debian if that can be done here."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL_LIMIT_S = 300


def program(name: str, package: str, at: str = "/usr/sbin") -> str:
    """Return the path of a program; installs its package as root on Debian, leaves the test out elsewhere.

    `at` is where it is looked for first.
    """
    found = _find(name, at)
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(package)
        found = _find(name, at)
    if not found:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def _find(name: str, at: str) -> str:
    beside = Path(at) / name
    return str(beside) if beside.exists() else shutil.which(name) or ""


@functools.cache
def _install(package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
        subprocess.run(
            ["apt-get", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
