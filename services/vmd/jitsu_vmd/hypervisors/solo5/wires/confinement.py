"""What a process gives up before it becomes a tender: everything that a tender does not need.

once, by the launcher, for all      no program that is executed gains a right (PR_SET_NO_NEW_PRIVS), and none has a
                                    capability: the bounding set is empty, and one who is no longer root keeps none
                                    (capabilities(7))
by a process that waits to become   a session of its own, no descriptor, limits
a tender (spares.py)
when it becomes one                 the console; the limit of its memory; its record; a user of its own; execve(2)
    when it has booted                  a lower priority (tenders.py)
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass, field

from jitsu_vmd.hypervisors.solo5.wires import records

EXTRA_MEMORY_BYTES = 64 << 20
"""Beside the guest's memory: the tender's own code and stack, and the libraries that it maps. solo5-spt has 8 MB."""
MAX_FILES = 128
"""The manifest has at most 63 devices, and a tender opens each once."""
MAX_PROCESSES = 4
"""Of its user. A tender is one process with one thread, and its seccomp filter lets it make no other. Earlier ones of
the same user may still be there, dead: where the launcher was killed, another process has to reap them.
"""
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_LIMITS = {
    resource.RLIMIT_NOFILE: MAX_FILES,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_NPROC: MAX_PROCESSES,
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Command:
    """What is to be run, and as whom."""

    argv: list[str]
    user: int
    memory_bytes: int
    """Of the guest."""
    groups: list[int] = field(default_factory=list)
    """That of /dev/kvm, for a tender that needs it."""


def confine_children() -> None:
    """Give up what no program that this process or its children execute may get; raises OSError."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)


def prepare(kept: set[int]) -> None:
    """Give up what can be given up before it is known which tender is wanted; no descriptors but `kept` are left."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    at = 3
    for descriptor in sorted(kept):
        os.closerange(at, descriptor)
        at = descriptor + 1
    os.closerange(at, os.sysconf("SC_OPEN_MAX"))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    for which, limit in _LIMITS.items():
        resource.setrlimit(which, (limit, limit))
    os.chdir("/")
    os.umask(0o077)


def become(command: Command, record: tuple[str, int, bytes], console: int) -> str:
    """Become the tender; returns only if that fails, with the reason.

    `record` is the path of its record, the start time of this process, and what else is to stand there.
    """
    step = "its console"
    try:
        os.dup2(console, 1)
        os.dup2(console, 2)
        step = "its record"
        records.write_own(*record)
        step = "its user"
        os.setgroups(command.groups)
        os.setresgid(command.user, command.user, command.user)
        os.setresuid(command.user, command.user, command.user)
        step = "its memory"
        memory = command.memory_bytes + EXTRA_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        step = command.argv[0]
        os.execve(command.argv[0], command.argv, {"PATH": "/usr/bin:/bin"})
    except OSError as error:
        return f"{step}: {error.strerror}"


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
