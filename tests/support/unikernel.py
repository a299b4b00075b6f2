"""The test guest in C and the stand-ins for Solo5's programs, for tests that start them on taps of their own."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.debian import program
from tests.support.lan import BRIDGE, ip
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lan import Lan

ROOT = Path(__file__).parents[2]
MAC = "02:00:5e:00:53:09"
V4, V6 = "10.77.0.9", "fd77::9"
"""The guest's addresses on a Lan, unless a test says otherwise."""
LIMIT_S = 10.0


@functools.cache
def unikernel_programs() -> Path:
    """Return the directory with jitsu-guest, solo5-spt, solo5-hvt, solo5-elftool and images; builds them if needed."""
    program("gcc", "gcc", at="/usr/bin")
    program("make", "make", at="/usr/bin")
    done = subprocess.run(["make", "-s", "-C", ROOT, "guests"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / "guests"


def add_tap(lan: Lan, name: str) -> None:
    """Make a tap that stays until it is removed, up, as a port of the bridge."""
    ip("-n", lan.host, "tuntap", "add", "dev", name, "mode", "tap")
    ip("-n", lan.host, "link", "set", name, "master", BRIDGE, "up")


class RunningGuest:
    """A guest under the stand-in tender."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path) -> None:
        self.process = process
        self._console = console

    @property
    def console(self) -> str:
        """What it and its tender have printed until now."""
        return self._console.read_text()

    def wait_for_line(self, text: str) -> None:
        """Return when the console has this text."""
        wait_for(lambda: text in self.console or self.process.poll() is not None, LIMIT_S, f"console: {text}")
        assert text in self.console, self.console


def tender_arguments(tap: str, *arguments: str, mac: str = MAC, image: str = "web.spt") -> list[str]:
    """Return the command line that runs a guest, as Solo5 has it."""
    programs = unikernel_programs()
    options = ["--mem=16", f"--net:service={tap}", f"--net-mac:service={mac}"]
    addresses = [f"--ipv4={V4}/24", f"--ipv6={V6}/64"]
    return [str(programs / "solo5-spt"), *options, "--", str(programs / image), "--name=www", *addresses, *arguments]


@contextmanager
def guest_on(lan: Lan, *arguments: str, tap: str = "tap0") -> Iterator[RunningGuest]:
    """Run a guest on a new tap of the bridge; returns as soon as it is attached to it, killed at the end."""
    add_tap(lan, tap)
    with tempfile.TemporaryDirectory(prefix="jitsu-guest-") as directory:
        path = Path(directory) / "console"
        with path.open("wb") as console:
            command = tender_arguments(tap, *arguments)
            process: subprocess.Popen[bytes] = lan.run_on_host(
                lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
            )
        try:
            guest = RunningGuest(process, path)
            guest.wait_for_line("stand-in of the tests")  # until then the tap has no carrier, and loses frames
            yield guest
        finally:
            process.kill()
            process.wait(LIMIT_S)
            ip("-n", lan.host, "link", "delete", tap)
