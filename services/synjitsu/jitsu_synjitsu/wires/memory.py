"""The connections that are open, in a file of the runtime directory: a Synjitsu that is started again knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
import structlog

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.rules.activity import Connection, Known

log = structlog.get_logger("synjitsu")


class Memory:
    """The file."""

    def __init__(self, path: Path) -> None:
        """Read it, if there is one; what it says of a VM is true until the VM is heard of."""
        self._path = path
        self._read: dict[str, Known] = {}
        self._written: dict[str, Known] | None = None
        try:
            self._read = _parsed(msgpack.unpackb(path.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.warning("open connections of before are not known", file=str(path), reason=str(error))

    def take(self, vm: str) -> Known | None:
        """Return what was known of a VM, once."""
        return self._read.pop(vm, None)

    def save(self, known: dict[str, Known]) -> None:
        """Write what is known now; what was read and not taken stays."""
        known = self._read | known
        if known == self._written:
            return
        self._written = known
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgpack.packb(known))
            new.replace(self._path)
        except OSError as error:
            log.warning("open connections are not saved", file=str(self._path), reason=error.strerror)


def _parsed(data: Any) -> dict[str, Known]:
    return {
        str(vm): (
            _connections(connections),
            bool(maybe_more),
            _connections(more[0] if more else ()),  # an older file has none
        )
        for vm, (connections, maybe_more, *more) in dict(data).items()
    }


def _connections(data: Any) -> list[Connection]:
    return [(bytes(a), int(b), bytes(c), int(d)) for a, b, c, d in data]
