"""Processor time of the processes of a suite, and how often they were woken, from /proc (proc(5)).

On a machine that others use too, this says more about a change than the time that passed.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NS_PER_MS = 1e6


@dataclass
class Used:
    """What one process has used."""

    user_ms: float = 0.0
    system_ms: float = 0.0
    wakeups: int = 0
    """Voluntary context switches: the process has waited for something, and it came."""
    switched: int = 0
    """Involuntary ones: another process had its turn."""

    def __sub__(self, other: Used) -> Used:
        """Return what was used since then."""
        mine, theirs = astuple(self), astuple(other)
        return Used(*(now - before for now, before in zip(mine, theirs, strict=True)))

    def __add__(self, other: Used) -> Used:
        """Return both."""
        return Used(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


def used_by(pid: int) -> Used:
    """Return what a process has used since it began; nothing if it has gone.

    The kernel keeps the sum exactly (schedstat) and its parts by sampling (stat), so the parts are scaled.
    """
    used = Used()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            ran_ns = int((task / "schedstat").read_text().split()[0])
            user, system = map(int, (task / "stat").read_text().rpartition(")")[2].split()[11:13])
            share = user / (user + system) if user + system else 0.5
            used.user_ms += share * ran_ns / NS_PER_MS
            used.system_ms += (1 - share) * ran_ns / NS_PER_MS
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    used.wakeups += int(line.split()[1])
                elif line.startswith("nonvoluntary_ctxt_switches"):
                    used.switched += int(line.split()[1])
    return used


def named(pids: Iterable[int]) -> dict[int, str]:
    """Return what each process is, as people call it."""
    names = {}
    for pid in pids:
        with suppress(OSError):
            names[pid] = _name(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))
    return names


def _name(command: list[str]) -> str:
    """Return the last part of the module's name that says something: `vmd` of jitsu_vmd.main, `launcher`."""
    modules = [word.split(".") for word in command if word.startswith("jitsu")]
    for parts in reversed(modules):
        if len(parts) > 1:
            return parts[0].removeprefix("jitsu_") if parts[-1] == "main" else parts[-1]
    return Path(command[0]).name


class Meter:
    """What the processes of a suite use while something is done that counts."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._names = named(pids)
        self._used: dict[str, Used] = defaultdict(Used)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what is used in here."""
        before = {pid: used_by(pid) for pid in self._names}
        yield
        for pid, name in self._names.items():
            self._used[name] += used_by(pid) - before[pid]

    def print_per(self, what: str, count: int) -> None:
        """Print what was used for each of so many."""
        used = self._used
        title = f"processor time per {what} (ms)"
        print(f"{title:<34}{'sum':>8}{'user':>9}{'system':>9}{'wake-ups':>11}{'taken off':>11}")
        for name, each in [*sorted(used.items()), ("all", sum(used.values(), Used()))]:
            total = each.user_ms + each.system_ms
            print(
                f"    {name:<30}{total / count:>8.3f}{each.user_ms / count:>9.3f}{each.system_ms / count:>9.3f}"
                f"{each.wakeups / count:>11.2f}{each.switched / count:>11.2f}"
            )
