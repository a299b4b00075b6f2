"""A libvirtd of our own in a network namespace, and the guest that guests/build.py makes."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

URI, XEN_URI = "qemu:///system", "xen:///system"
START_LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]


@functools.cache
def guest_image() -> Path:
    """Return the directory of the guest's kernel and initrd, where QEMU's own user may read them.

    JITSU_GUEST_IMAGE says where they are already.
    """
    if made := os.environ.get("JITSU_GUEST_IMAGE"):
        return Path(made)
    directory = Path(tempfile.mkdtemp(prefix="jitsu-guest-"))
    atexit.register(shutil.rmtree, directory)
    subprocess.run([sys.executable, "-m", "guests.build", directory], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)
    return directory


def virsh(*arguments: str, check: bool = True, uri: str = URI) -> str:
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


class Libvirtd:
    """The daemon, which can be stopped and started again; its domains go on.

    One that crashes is started again, as its systemd unit says (Restart=on-failure): libvirtd 9.0 does at times when
    many of its connections end at once (virEventGLibTimeoutRemoveIdle).
    """

    def __init__(self, inside: Sequence[str], uri: str) -> None:
        """`inside` are the words before the command, `ip netns exec NAME`; `uri` is the driver that is used."""
        self._inside = inside
        self._uri = uri
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._changing = threading.Lock()

    def start(self) -> None:
        if virsh("version", check=False, uri=self._uri):
            pytest.skip("a libvirtd runs already: it is not ours to test with")
        for name in ("virtlogd", "libvirtd"):
            if name not in self._processes:
                self._run(name)
        ends = time.monotonic() + START_LIMIT_S
        while not virsh("version", check=False, uri=self._uri):
            assert time.monotonic() < ends, "libvirtd does not start"
            time.sleep(0.05)

    def _run(self, name: str) -> None:
        command = [*self._inside, f"/usr/sbin/{name}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._processes[name] = process
        threading.Thread(target=self._run_again, args=[name, process], daemon=True).start()

    def _run_again(self, name: str, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with self._changing:
            if self._processes.get(name) is process and status:
                print(f"{name} has ended with {status}: it is started again")
                self._run(name)

    def stop(self, name: str = "libvirtd", number: int = signal.SIGTERM) -> None:
        with self._changing:
            process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait()

    def pid(self) -> int:
        return self._processes["libvirtd"].pid

    def destroy_all(self) -> None:
        """Leave no domain behind."""
        for name in virsh("list", "--all", "--name", check=False, uri=self._uri).split():
            if name != "Domain-0":
                virsh("destroy", name, check=False, uri=self._uri)
                virsh("undefine", name, "--managed-save", check=False, uri=self._uri)


@contextmanager
def running_libvirtd(inside: Sequence[str] = (), uri: str = URI) -> Iterator[Libvirtd]:
    """Run it."""
    daemon = Libvirtd(inside, uri)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.destroy_all()
        for name in ("libvirtd", "virtlogd"):
            daemon.stop(name)
