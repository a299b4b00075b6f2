"""The runtime directory of a `jitsu up`: who may own and open it, what is made in it, what is removed at the end.

Whoever can write in this directory can put a socket of their own in the place of `vmd.rpc`, and whoever can enter it
may reach the sockets. So `jitsu up` only uses a directory that belongs to its own user, that others cannot enter, and
that its group cannot write to. Whoever can rename one of the directories above it could replace it as a whole, so each
of these, and each symbolic link on the way, must belong to the same user or to root, and nobody else may write in it
unless its sticky bit is set, as that of /tmp is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shlex
import shutil
import signal
import stat
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.restart import RECORD
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.settings.schema import MACHINE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_STORE = "store.git"
OPEN_TO_OTHERS = stat.S_IRWXO | stat.S_IWGRP
WRITTEN_BY_OTHERS = stat.S_IWOTH | stat.S_IWGRP
ANOTHER_DIRECTORY = "give another directory with --runtime-dir"


class RuntimeDirectory:
    """The directory that one `jitsu up` holds, from `claim` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._own_store: Path | None = None

    def claim(self) -> None:
        """Make the directory if there is none, and lock it. Raises SetupFault if it is unsafe or in use."""
        try:
            make(self.path)
            refuse_unsafe(self.path)
            lock = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise SetupFault(f"{error.filename} is not a directory", hint=ANOTHER_DIRECTORY) from None
        except OSError as error:
            raise SetupFault(
                f"the runtime directory {self.path} cannot be used: {error.strerror}", hint=ANOTHER_DIRECTORY
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SetupFault(
                f"another jitsu up runs in {self.path}",
                hint="stop it, or give this one a directory of its own with --runtime-dir",
            ) from None
        self._lock = lock

    def new_store(self) -> Path:
        """Make and return an empty directory for the repository of this run, which `release` removes.

        A repository that is there already, whoever left it, is never used and never removed.
        """
        for number in count():
            path = self.path / (f"store-{number}.git" if number else FIRST_STORE)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                self._own_store = path
                return path
        raise AssertionError("unreachable")

    def release(self, *, guests_ended: bool = False) -> None:
        """Remove what this run has made, and the directory itself if nothing else is in it.

        What vmd and Synjitsu keep of guests stays for the next run, unless they have `guests_ended` with this one.
        """
        if guests_ended:
            for guests in self.path.glob("guests*"):
                shutil.rmtree(guests, ignore_errors=True)
            (self.path / "synjitsu.connections").unlink(missing_ok=True)
        if guests_ended or self._own_store is not None:
            for record in self.path.glob(
                "reaper.why*"
            ):  # why VMs ran that are gone, or that the next run does not know
                record.unlink(missing_ok=True)
        for name in ("store", "vmd", "synjitsu", "reaper", "web", "mock"):
            for kind in ("rpc", "feed"):
                for suffix in ("", ".lock"):
                    (self.path / f"{name}.{kind}{suffix}").unlink(missing_ok=True)
        for names in self.path.glob("*.names"):  # of the dns replicas
            names.unlink(missing_ok=True)
        if self._own_store is not None:
            shutil.rmtree(self._own_store, ignore_errors=True)
            shutil.rmtree(self.path / "web", ignore_errors=True)  # nothing that its tokens began goes on
        (self.path / RECORD).unlink(missing_ok=True)
        (self.path / "up.lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill_mock_host(self) -> None:
        """Kill the process that runs the mock guests; it is not a child of `jitsu up`."""
        pid_file = self.path / "mock.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if b".mock.host" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)


def make(path: Path) -> None:
    """Make a directory that only its owner can open, and the directories above it; raises OSError."""
    for above in reversed(path.parents):
        if not above.is_dir():
            above.mkdir(mode=0o755)  # under a umask of 000 too
    if not path.is_dir():
        path.mkdir(mode=0o700)


def refuse_unsafe(path: Path) -> None:
    """Raise SetupFault if somebody else can replace or open what is in a directory."""
    own, quoted = os.geteuid(), shlex.quote(str(path))
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    what = f"{path} belongs to {user_name(found.st_uid)} and has mode {mode:04o}"
    if path == MACHINE_DIRECTORY and (found.st_uid != own or mode & OPEN_TO_OTHERS):
        raise SetupFault(f"{what}: it is for the services of this machine", hint=ANOTHER_DIRECTORY)
    if found.st_uid != own:
        raise SetupFault(
            f"{what}; a runtime directory must belong to who runs jitsu up, {user_name(own)}",
            hint=f"as root: `chown {own} {quoted} && chmod 700 {quoted}`; or {ANOTHER_DIRECTORY}",
        )
    if mode & OPEN_TO_OTHERS:
        raise SetupFault(
            f"{what}; other users could open or replace the sockets in it",
            hint=f"`chmod 700 {quoted}`, or {ANOTHER_DIRECTORY}",
        )
    for step in _way_to(path):
        _refuse_unsafe_step(step, path)


def _way_to(path: Path) -> Iterator[Path]:
    """Yield each directory and symbolic link through which a path that exists leads, without the last directory."""
    end, at = path.resolve(), Path("/")
    pending = list(reversed(path.absolute().parts[1:]))
    yield at
    while pending:
        part = pending.pop()
        if part in ("/", ".."):
            at = at.parent if part == ".." else Path("/")
            continue
        step = at / part
        if step.is_symlink():
            pending.extend(reversed(step.readlink().parts))
        else:
            at = step
        if step != end:
            yield step


def _refuse_unsafe_step(step: Path, path: Path) -> None:
    """Raise SetupFault if another user than root can put something else in the place of what is below a directory."""
    own, quoted = os.geteuid(), shlex.quote(str(step))
    found = step.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        if found.st_uid not in (own, 0):
            raise SetupFault(
                f"{step} is a symbolic link that belongs to {user_name(found.st_uid)}, who can change it",
                hint=f"as root: `chown -h {own} {quoted}`; or {ANOTHER_DIRECTORY}",
            )
        return
    what = f"{step} belongs to {user_name(found.st_uid)} and has mode {mode:04o}"
    if found.st_uid not in (own, 0):
        # Its owner may rename what is in it, even where the sticky bit keeps others from that (unlink(2), EPERM).
        raise SetupFault(
            f"{what}; its owner could replace {path}, which is below it",
            hint=f"as root: `chown {own} {quoted}`; or {ANOTHER_DIRECTORY}",
        )
    if mode & WRITTEN_BY_OTHERS and not mode & stat.S_ISVTX:
        as_root = "as root: " if found.st_uid != own else ""
        raise SetupFault(
            f"{what}; other users could replace {path}, which is below it",
            hint=f"{as_root}`chmod go-w {quoted}`; or {ANOTHER_DIRECTORY}",
        )


def user_name(uid: int) -> str:
    """Return a user as people know them: `alice (uid 1000)`."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
