"""Which ports of bridges are shut, in a file of the runtime directory: a Synjitsu that was killed opens them when it is
back. A port is noted before it is shut, so none can be forgotten.

The file grows by a line at each change, `+ INDEX NAME` or `- INDEX NAME`, because a start of a VM waits for it: one
write(2) takes microseconds, while replacing a file takes a millisecond where that reaches a disk. It is emptied when no
port is shut any longer, and rewritten when it has grown long.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.rules.ports import Port
    from jitsu_synjitsu.wires.lan import Lan

MAX_FILE_BYTES = 64 * 1024
"""About 2,000 changes. A longer file is rewritten, with a line for each port that is shut."""

log = structlog.get_logger("synjitsu")


class Ledger:
    """The file."""

    def __init__(self, path: Path, lan: Lan) -> None:
        self._path = path
        self._lan = lan
        self._shut: dict[str, int] = {}
        """Name -> index."""
        self._descriptor = -1
        self._size, self._limit = 0, MAX_FILE_BYTES

    def restore(self) -> None:
        """Open the ports that an earlier Synjitsu has left shut."""
        try:
            ports = read_ports(self._path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning(
                "cannot read which ports an earlier Synjitsu left shut", file=str(self._path), reason=str(error)
            )
            return
        for name, index in ports.items():
            try:
                if self._lan.index(name) == index:  # else it is another interface by now
                    self._lan.set_flood(index, True)
                    log.info("a port that was left shut is open again", port=name)
            except OSError as error:
                log.debug("a port that was left shut is gone", port=name, reason=error.strerror)
        with suppress(OSError):
            self._path.unlink()

    def add(self, port: Port) -> None:
        """Note a port that is about to be shut."""
        self._shut[port.name] = port.index
        self._append(f"+ {port.index} {port.name}\n")

    def remove(self, port: Port) -> None:
        """Note a port that is open again, or gone."""
        if self._shut.pop(port.name, None) is not None:
            self._append(f"- {port.index} {port.name}\n")

    def close(self) -> None:
        """Leave no file behind if no port is shut."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self._shut:
            with suppress(OSError):
                self._path.unlink()

    def _append(self, line: str) -> None:
        try:
            self._open()
            if not self._shut:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
            elif self._size > self._limit:
                self._rewrite()
            else:
                self._size += os.write(self._descriptor, line.encode())
        except OSError as error:
            log.warning("cannot save which ports are shut", file=str(self._path), reason=error.strerror)

    def _open(self) -> None:
        if self._descriptor < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)

    def _rewrite(self) -> None:
        """Keep only what is shut now. The new file takes the place of the old one at once: no crash loses a port."""
        new = self._path.with_suffix(".new")
        text = "".join(f"+ {index} {name}\n" for name, index in self._shut.items())
        new.write_text(text)
        descriptor = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        new.replace(self._path)
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(text)
        self._limit = max(MAX_FILE_BYTES, 2 * len(text))


def read_ports(path: Path) -> dict[str, int]:
    """Return the ports that a file says are shut; raises OSError or ValueError.

    A last line without its end was being written when Synjitsu was killed: its port was not shut yet, or is open.
    """
    ports: dict[str, int] = {}
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            sign, index, name = line.rstrip("\n").split(" ", 2)
            if sign == "+":
                ports[name] = int(index)
            else:
                ports.pop(name, None)
    return ports
