"""The runtime directory of a `jitsu up`: who may own and open it, what is made in it, what is removed at the end.

Whoever can write in this directory can put a socket of their own in the place of `vmd.rpc`, and whoever can enter it
may reach the sockets. So `jitsu up` only uses a directory that belongs to its own user, that others cannot enter, and
that its group cannot write to.
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

from jitsu.restart import RECORD
from jitsu_protocol.errors import SetupFault
from jitsu_protocol.sections import MACHINE_DIRECTORY

FIRST_STORE = "store.git"
OPEN_TO_OTHERS = stat.S_IRWXO | stat.S_IWGRP
WRITTEN_BY_OTHERS = stat.S_IWOTH
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

    def release(self) -> None:
        """Remove what this run has made, and the directory itself if nothing else is in it."""
        for name in ("store", "vmd", "synjitsu", "reaper", "mock"):
            for kind in ("rpc", "feed"):
                for suffix in ("", ".lock"):
                    (self.path / f"{name}.{kind}{suffix}").unlink(missing_ok=True)
        for names in self.path.glob("*.names"):  # of the dns replicas
            names.unlink(missing_ok=True)
        if self._own_store is not None:
            shutil.rmtree(self._own_store, ignore_errors=True)
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
            if b"jitsu_vmd.mock.host" in Path(f"/proc/{pid}/cmdline").read_bytes():
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
    if path.is_symlink() and path.lstat().st_uid not in (own, 0):
        owner = user_name(path.lstat().st_uid)
        raise SetupFault(
            f"{path} is a symbolic link that belongs to {owner}, who can change it", hint=ANOTHER_DIRECTORY
        )
    for above in path.resolve().parents:
        found = above.stat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & WRITTEN_BY_OTHERS and not mode & stat.S_ISVTX:
            raise SetupFault(
                f"{above} belongs to {user_name(found.st_uid)} and has mode {mode:04o}; "
                f"other users could replace {path}, which is below it",
                hint=f"`chmod o-w {shlex.quote(str(above))}`, or {ANOTHER_DIRECTORY}",
            )


def user_name(uid: int) -> str:
    """Return a user as people know them: `alice (uid 1000)`."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
