"""What is written down about each tender, so that it is found again whatever dies: one file for each, UUID.json.

The process that becomes the tender writes its own record before it becomes it (confinement.py): no tender runs without
one. A record that was cut short is therefore of a process that has never become one. Process ids are used again, so a
record also has the time at which the process started, in ticks since the boot of this machine, and which boot that
was. A record whose process is gone is of a guest that has ended.

The first line is `PID TICKS BOOT SINCE`, the second what vmd knows of the guest, as JSON. SINCE is when it became the
tender, in seconds since the boot: the process itself may have waited for that for long (spares.py).

This module is imported by the launcher, which is to stay small: it uses the standard library only.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.shared.process_ids import boot_id, process_stat

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".json"


@dataclass(frozen=True)
class TenderRecord:
    """One tender."""

    uuid: str
    name: str
    user: int
    taps: list[str] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    macs: list[str] = field(default_factory=list)
    disks: list[str] = field(default_factory=list)
    pid: int = 0
    started_ticks: int = 0
    """When the process started, in clock ticks since the boot (proc(5), starttime)."""
    boot: str = ""
    since_s: float = 0.0
    """When it became the tender, in seconds since the boot."""

    def is_alive(self) -> bool:
        """Say whether this very process runs, or is stopped."""
        try:
            state, ticks = process_stat(self.pid)
        except OSError:
            return False
        return ticks == self.started_ticks and self.boot == boot_id() and state not in "ZXx"

    def is_stopped(self) -> bool:
        """Say whether it has been stopped by a signal."""
        try:
            return process_stat(self.pid)[0] in "Tt"
        except OSError:
            return False

    def up_s(self) -> float:
        """Return for how many seconds it has been a tender."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.since_s)


def prepared(record: TenderRecord) -> str:
    """Return what a process that becomes this tender is to write after its own first line."""
    return json.dumps(asdict(record))


def write_own(path: str, ticks: int, body: bytes) -> None:
    """Write the record of this process; raises OSError. A client waits for this: one write only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.write(descriptor, f"{os.getpid()} {ticks} {boot_id()} {since}\n".encode() + body)
    os.close(descriptor)


def path_of(directory: Path, uuid: str) -> str:
    """Return the path of a guest's record."""
    return f"{directory}/{uuid}{SUFFIX}"


def of_process(record: TenderRecord, pid: int) -> TenderRecord:
    """Return the record with what identifies a process; raises OSError if there is none."""
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    return replace(record, pid=pid, started_ticks=process_stat(pid)[1], boot=boot_id(), since_s=since)


def read_all(directory: Path) -> dict[str, TenderRecord]:
    """Return all records by UUID; what was cut short is removed."""
    found = {}
    for path in directory.glob(f"*{SUFFIX}"):
        try:
            process, _, body = path.read_text().partition("\n")
            pid, ticks, boot, since = process.split()
            own = {"pid": int(pid), "started_ticks": int(ticks), "boot": boot, "since_s": float(since)}
            found[path.stem] = TenderRecord(**(json.loads(body) | own))
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
    return found


def remove(directory: Path, uuid: str) -> None:
    """Remove a record, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(path_of(directory, uuid))
