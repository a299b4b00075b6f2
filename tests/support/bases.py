"""Root file systems of Debian: made here by debootstrap, as nothing can be pulled, and kept in .cache/."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.debian import program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bases"
IN_BASE = ("python3", "iproute2", "curl", "dnsutils")
NEWCOMER_ONLY = (
    *("make", "git", "git-man", "liberror-perl", "perl", "perl-modules-5.36", "libperl5.36"),
    *("libgdbm6", "libgdbm-compat4", "libcurl3-gnutls"),
)
"""Git and make, and what comes with them."""
BUILD_ONLY = ("python3.11-venv", "python3-venv", "python3-pip-whl", "python3-setuptools-whl")
BASES = ("newcomer", "build-base", "base")
MACHINE = "machine-with-binding"
"""The name of its tar; another one than that of a machine with other packages."""
IN_MACHINE = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "procps"),
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "python3-libvirt"),
    "openssh-server",
)


def bases() -> Path:
    """Return a directory with Debian in three tars: for a newcomer, for building, for running."""
    if not all((CACHE / f"{name}.tar").exists() for name in BASES):
        debootstrap = program("debootstrap", "debootstrap")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory) / "root"
            include = f"--include={','.join((*IN_BASE, 'python3-venv', 'git', 'make'))}"
            _quietly(debootstrap, "--variant=minbase", include, "bookworm", root)
            removed: dict[str, tuple[str, ...]] = dict(zip(BASES, ((), NEWCOMER_ONLY, BUILD_ONLY), strict=True))
            for name, packages in removed.items():
                if packages:
                    _quietly("chroot", root, "dpkg", "--purge", "--force-depends", *packages)
                _pack(root, name)
    return CACHE


@contextmanager
def unpacked_machine() -> Iterator[Path]:
    """Give a root file system with systemd, libvirt, QEMU and sshd, in a directory that goes with it."""
    with tempfile.TemporaryDirectory(prefix="jitsu-machine-") as directory:
        root = Path(directory) / "root"
        root.mkdir()
        kept = CACHE / f"{MACHINE}.tar"
        if kept.exists():
            _quietly("tar", "-C", root, "-xf", kept)
        else:
            _quietly("tar", "-C", root, "-xf", bases() / "newcomer.tar")
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
            apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq"
            install = f"{apt} update && {apt} install -y --no-install-recommends {' '.join(IN_MACHINE)}"
            _quietly("chroot", root, "env", "-u", "TMPDIR", "sh", "-c", install)  # that directory is not in there
            _pack(root, MACHINE)
        yield root


def _pack(root: Path, name: str) -> None:
    left_out = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")
    partial = CACHE / f"{name}.new"
    _quietly("tar", "-C", root, "-cf", partial, *(f"--exclude=./{each}/*" for each in left_out), ".")
    partial.rename(CACHE / f"{name}.tar")


def _quietly(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
