"""Bridges that the mock hypervisor makes, and removes again.

The alias of a bridge names the process that made it. A process that was killed has not removed its bridge, so the next
host process that finds such a bridge removes it, whatever its name is.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE_MAC = "02:4a:49:54:53:42"
ALIAS = "made by jitsu's mock host, process {pid} started at {start} in {space}"
_MADE = re.compile(r"made by jitsu's mock host, process (?P<pid>\d+) started at (?P<start>\d+) in (?P<space>\S+)")


def ip(*arguments: str, namespace: int | None = None, lines: Sequence[str] = ()) -> None:
    """Run ip(8), in another process's network namespace if one is given; raises OSError."""
    enter = [] if namespace is None else ["nsenter", f"--net=/proc/{namespace}/ns/net"]
    argv = [*enter, "ip", *arguments]
    done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(0, f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def make_bridge(name: str, addresses: list[str]) -> bool:
    """Make a bridge if there is none, and say whether it was made; remove those left behind. Raises OSError."""
    for alias in Path("/sys/class/net").glob("*/ifalias"):
        with suppress(FileNotFoundError):
            if is_left_behind(alias.read_text()):
                ip("link", "delete", alias.parent.name)
    if Path(f"/sys/class/net/{name}").exists():
        return False
    # A bridge without a MAC address of its own takes that of a port, and another one when that port goes.
    ip("link", "add", name, "address", BRIDGE_MAC, "type", "bridge", "forward_delay", "0")
    own = os.getpid()
    ip("link", "set", name, "alias", ALIAS.format(pid=own, start=_started_at(own), space=_process_space()))
    for address in addresses:
        ip("address", "add", address, "dev", name, "nodad")
    ip("link", "set", name, "up")
    return True


def is_left_behind(alias: str) -> bool:
    """Say whether a bridge has an alias of ours, of a process that is no longer there."""
    made = _MADE.fullmatch(alias.strip())
    # A process in another PID namespace cannot be looked at from here: its bridge is left alone.
    if made is None or made["space"] != _process_space():
        return False
    return made["start"] != _started_at(int(made["pid"]))


def _started_at(pid: int) -> str:
    """Return when a process started (proc(5), field 22 of stat); "" if it is not there, or has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _process_space() -> str:
    return os.readlink("/proc/self/ns/pid")
