"""Which ports of bridges are shut, in a file of the runtime directory: a Synjitsu that was killed opens them when it is
back. A port is noted before it is shut, so none can be forgotten.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import structlog

from jitsu_synjitsu.wires.links import set_flood

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.rules.ports import Port

log = structlog.get_logger("synjitsu")


class Ledger:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shut: dict[str, int] = {}
        """Name -> index."""

    def restore(self) -> None:
        """Open the ports that an earlier Synjitsu has left shut."""
        try:
            left = json.loads(self._path.read_bytes())
            ports = {str(name): int(index) for name, index in left.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("ports that were left shut are not known", file=str(self._path), reason=str(error))
            return
        for name, index in ports.items():
            try:
                if socket.if_nametoindex(name) == index:  # else it is another interface by now
                    set_flood(index, True)
                    log.info("a port that was left shut is open again", port=name)
            except OSError as error:
                log.debug("a port that was left shut is gone", port=name, reason=error.strerror)
        self._write()

    def add(self, port: Port) -> None:
        """Note a port that is about to be shut."""
        self._shut[port.name] = port.index
        self._write()

    def remove(self, port: Port) -> None:
        """Note a port that is open again, or gone."""
        if self._shut.pop(port.name, None) is not None:
            self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        try:
            if not self._shut:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self._shut))
            new.replace(self._path)
        except OSError as error:
            log.warning("which ports are shut is not saved", file=str(self._path), reason=error.strerror)
