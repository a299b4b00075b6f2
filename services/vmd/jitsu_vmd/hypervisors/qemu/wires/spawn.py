"""Starting a QEMU process: as a user of its own, with its files and taps opened for it.

    DIRECTORY/          root's, and open for search: the directory that QEMU starts in
        record          which process it is, and what it is made of; written when it has been started
        errors          what QEMU prints
        identified      a mark: this clone has an identity of its own
    save            a socket, while the state of the guest is taken from it
        own/            QEMU's, in which it makes its sockets

vmd never follows a path into `own` to change anything there, and trusts a socket in it only after it has asked the
kernel which process listens: a guest that has broken out of QEMU may have put anything there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.qemu.rules.command_line import AGENT, QMP, SERIAL, opened
from jitsu_vmd.hypervisors.qemu.wires.monitor import connected, peer
from jitsu_vmd.hypervisors.qemu.wires.templates import private_copy, private_overlay

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_vmd.hypervisors.qemu.rules.command_line import Opened
    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch, MadeFiles

END_LIMIT_S = 5.0
MARK = "identified"


@dataclass(frozen=True)
class RunsAs:
    """As whom a process runs."""

    user: int
    groups: list[int]
    """That of /dev/kvm, if the guest needs it."""


@dataclass(frozen=True)
class Spawned:
    """What a process is started with."""

    launch: Launch
    runs_as: RunsAs
    files: MadeFiles
    words: Callable[[list[int]], list[str]]
    """Makes the command line of descriptors."""
    memory: int = -1
    """The descriptor of its template's memory, if it is a clone."""


def spawn(directory: Path, spawned: Spawned, taps: list[int]) -> subprocess.Popen[bytes]:
    """Start a process; raises OSError. `taps` are descriptors, in the order of its interfaces, and are closed."""
    runs_as = spawned.runs_as
    descriptors: list[int] = []
    given = iter(taps)
    try:
        _make(directory, runs_as.user)
        for each in opened(spawned.launch, spawned.files):
            descriptors.append(next(given) if each.kind == "tap" else _descriptor(each, spawned))
        with (directory / "errors").open("wb") as errors:
            return subprocess.Popen(
                spawned.words(descriptors),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=directory,
                env={"PATH": "/usr/bin:/bin"},
                pass_fds=descriptors,
                start_new_session=True,
                user=runs_as.user,
                group=runs_as.user,
                extra_groups=runs_as.groups,
                umask=0o077,
            )
    finally:
        for descriptor in (*descriptors, *given):
            os.close(descriptor)


def _descriptor(wanted: Opened, spawned: Spawned) -> int:
    """Open something for QEMU; raises OSError."""
    scratch = Path(spawned.files.ram).parent
    match wanted.kind:
        case "memory":
            return os.dup(spawned.memory)
        case "copy":
            return private_copy(wanted.path, scratch)
        case "overlay":
            disk = next(disk for disk in spawned.launch.disks if disk.path == wanted.path)
            return private_overlay(disk.path, disk.format, scratch)
    return os.open(wanted.path, (os.O_RDONLY if wanted.kind == "read" else os.O_RDWR) | os.O_CLOEXEC)


def _make(directory: Path, user: int) -> None:
    """Make the directory of a process, and its own one in it."""
    own = directory / "own"
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o711)
    os.chown(own, user, user)
    for name in (QMP, SERIAL, AGENT, MARK):
        (directory / name).unlink(missing_ok=True)


async def end_orphan(directory: Path, user: int) -> None:
    """End a process of this VM that has no record: vmd died before it could write one, so the guest never ran."""
    try:
        made = connected(directory, QMP)
    except OSError:
        return
    with made:
        orphan = peer(made)
    with suppress(OSError):
        pidfd = os.pidfd_open(orphan)
        try:
            if os.stat(f"/proc/{orphan}").st_uid == user:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await _end_of(pidfd)
        finally:
            os.close(pidfd)


async def _end_of(pidfd: int) -> None:
    """Return when a process has ended, or END_LIMIT_S later."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(pidfd)
