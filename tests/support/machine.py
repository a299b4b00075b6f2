"""A machine with systemd, libvirt and QEMU: Debian in systemd-nspawn, on a bridge that the test has made."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.bases import ROOT, unpacked_machine
from tests.support.debian import program
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lan import Lan

BOOT_LIMIT_S, OFF_LIMIT_S, COMMAND_LIMIT_S = 60.0, 30.0, 30.0
INSTALL_LIMIT_S = 120.0
PACKAGE = "/root/jitsu_[0-9]*_*.deb"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """It runs, and can be switched off and on."""

    def __init__(self, root: Path, lan: Lan, shown: Path) -> None:
        """`shown` is a directory that the machine sees, at its own path, to read from."""
        self.root = root
        self._lan = lan
        self._shown = shown
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def on(self) -> None:
        """Boot until everything that is enabled has started."""
        nspawn = program("systemd-nspawn", "systemd-container", at="/usr/bin")
        flags = ["--boot", "--register=no", "--keep-unit", "--console=pipe", "--capability=all", "--quiet"]
        with (self.root.parent / "console").open("ab") as said:
            self._process = subprocess.Popen(
                [
                    *(nspawn, *flags, f"--directory={self.root}", "--bind=/dev/net/tun"),
                    *(f"--bind-ro={self._shown}", f"--network-namespace-path=/run/netns/{self._lan.host}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        wait_for(lambda: bool(self._found_init()), BOOT_LIMIT_S, "the machine boots")
        wait_for(self._has_booted, BOOT_LIMIT_S, "it has booted")

    def _found_init(self) -> int:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                self._init = int(pid)
        return self._init

    def _has_booted(self) -> bool:
        return self("systemctl is-system-running", check=False).strip() in ("running", "degraded")

    def __call__(self, command: str, check: bool = True, user: str = "root", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a command line as a user and return what it printed."""
        line = command if user == "root" else f"runuser -u {user} -- sh -c {shlex.quote(command)}"
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", "env", "-i", f"PATH={PATH}", "HOME=/root", "sh", "-c", line],
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def off(self) -> None:
        """Shut it down."""
        if self._process is not None:
            if self._init and self._process.poll() is None:
                self("systemctl poweroff", check=False)
            try:
                self._process.wait(OFF_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
            self._process, self._init = None, 0


@contextmanager
def running_machine(lan: Lan, shown: Path) -> Iterator[Machine]:
    """Boot a machine and install what `make deb` builds, which is what `make install` puts in place."""
    with unpacked_machine() as root:
        subprocess.run(["make", "deb", f"DIST={root}/root"], cwd=ROOT, check=True, capture_output=True, timeout=400)
        machine = Machine(root, lan, shown)
        try:
            machine.on()
            machine(f"dpkg --install {PACKAGE}", limit_s=INSTALL_LIMIT_S)
            yield machine
        finally:
            machine.off()


def repacked(machine: Machine, version: str) -> str:
    """Make the package of another version from the one that is in the machine, and return its path there."""
    path = f"/root/jitsu_{version}.deb"
    line = f"dpkg-deb -R {PACKAGE} next && sed -i 's/^Version: .*/Version: {version}/' next/DEBIAN/control"
    machine(f"cd /root && {line} && dpkg-deb -b -Znone next {path} && rm -r next", limit_s=INSTALL_LIMIT_S)
    return path
