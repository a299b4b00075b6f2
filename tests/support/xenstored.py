"""An unmodified xenstored without Xen, for tests: a small library (xenstored/fakexen.c) plays the hypervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.debian import program

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("xenstored") / "fakexen.c"
START_LIMIT_S = 10.0


class Xenstored:
    """The daemon, which can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "run" / "socket"
        self.hypervisor = directory / "hv"
        """Where fakexen.c plays Xen."""
        for part in ("run", "lib", "hv"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self._program = program("xenstored", "xen-utils-4.17", at="/usr/lib/xen-4.17/bin")
        compiler = program("gcc", "gcc")
        library = directory / "fakexen.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
        self._environment = os.environ | {
            "XENSTORED_RUNDIR": str(directory / "run"),
            "XENSTORED_ROOTDIR": str(directory / "lib"),
            "XENSTORED_PATH": str(self.socket),
            "FAKEXEN_DIR": str(self.hypervisor),
            "LD_PRELOAD": str(library),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([self._program, "-N"], env=self._environment)
        ends = time.monotonic() + START_LIMIT_S
        while not self.socket.exists():
            assert time.monotonic() < ends, "xenstored does not start"
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


@contextmanager
def running_xenstored(directory: Path) -> Iterator[Xenstored]:
    """Run it."""
    daemon = Xenstored(directory)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
