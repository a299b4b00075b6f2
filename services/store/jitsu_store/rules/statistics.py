"""Statistics between two commits: the latest values that services recorded, and the journal that keeps them.

The store commits statistics once a minute, because each commit stays in the history for ever. Until then they are in
memory and in a journal on the disk:

    recorded     in memory, where readers see it at once               a crash loses it
    journaled    within a second, one line for all that changed        the next start reads it from the journal
    committed    once in `statistics_interval`, and on a normal stop   the journal keeps only what is newer

    crash while a line is appended      its checksum is wrong: this line and what follows it are ignored
    crash after the commit, before the  the next start records the same values again, and values that
    journal is rewritten                are already in the tree make no commit
    crash while it is rewritten         the new file takes the old one's place by a rename: one of them is whole

Each line is the CRC-32 of the rest in eight hexadecimal digits, a space, and a JSON object: path -> [value, service].
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import STATS_ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

Recorded = tuple[str, str]
"""A value, and the service that recorded it."""
_CHECKSUM_CHARACTERS = 8


class PendingStatistics:
    """The statistics that are not committed yet."""

    def __init__(self) -> None:
        self._pending: dict[str, Recorded] = {}
        self._unwritten: dict[str, Recorded] = {}
        """The part of them that the journal does not have."""
        self._names: dict[str, Counter[str]] = {}
        """Path -> the names right below it in `_pending`, each with how many values it has."""

    def __len__(self) -> int:
        """Return how many values wait to be committed."""
        return len(self._pending)

    def record(self, values: Mapping[str, str], service: str) -> None:
        """Add new values; the latest one for each path counts."""
        new = {path: (value, service) for path, value in values.items() if self._pending.get(path, ("",))[0] != value}
        self._add(new)
        self._unwritten |= new

    def restore(self, recorded: Mapping[str, Recorded]) -> None:
        """Add what a journal had."""
        self._add(recorded)

    def names_below(self, path: str) -> Collection[str]:
        """Return the names right below a path, of what waits."""
        return self._names.get(path, {}).keys()

    def _add(self, recorded: Mapping[str, Recorded]) -> None:
        for path in recorded.keys() - self._pending.keys():
            for above, name in _ancestors(path):
                self._names.setdefault(above, Counter())[name] += 1
        self._pending |= recorded

    def _drop(self, path: str) -> None:
        del self._pending[path]
        for above, name in _ancestors(path):
            names = self._names[above]
            names[name] -= 1
            if not names[name]:
                del names[name]
            if not names:
                del self._names[above]

    def pending(self) -> dict[str, Recorded]:
        """Return all that waits to be committed."""
        return dict(self._pending)

    def unwritten(self) -> dict[str, Recorded]:
        """Return what the journal does not have yet; from now on it counts as written."""
        unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    def not_written(self, recorded: Mapping[str, Recorded]) -> None:
        """Note that the journal could not be written: write these again, unless there are newer values."""
        self._unwritten = {**recorded, **self._unwritten}

    def committed(self, recorded: Mapping[str, Recorded]) -> None:
        """Forget what is committed; a value that was recorded in the meantime stays."""
        for path, each in recorded.items():
            if self._pending.get(path) is each:
                self._drop(path)
                self._unwritten.pop(path, None)

    def get(self, path: str) -> str | None:
        """Return the value that waits at a path."""
        found = self._pending.get(path)
        return None if found is None else found[0]

    def below(self, prefix: str) -> dict[str, str]:
        """Return the values that wait at or below a path, which has no slashes around it."""
        start = f"{prefix}/" if prefix else ""
        if not self._pending or not (f"{STATS_ROOT}/".startswith(start) or prefix.startswith(STATS_ROOT)):
            return {}
        return {path: value for path, (value, _) in self._pending.items() if path == prefix or path.startswith(start)}


def _ancestors(path: str) -> Iterator[tuple[str, str]]:
    """Yield each path above this one, with the part that follows it."""
    parts = path.split("/")
    for n in range(1, len(parts)):
        yield "/".join(parts[:n]), parts[n]


def line(recorded: Mapping[str, Recorded]) -> bytes:
    """Return a line of the journal."""
    body = json.dumps(recorded, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def read(journal: bytes) -> dict[str, Recorded]:
    """Return what a journal has, up to the first line that is damaged or incomplete."""
    found: dict[str, Recorded] = {}
    for each in journal.split(b"\n")[:-1]:
        body = each[_CHECKSUM_CHARACTERS + 1 :]
        if each[: _CHECKSUM_CHARACTERS + 1] != b"%08x " % zlib.crc32(body):
            break
        found |= {path: (value, service) for path, (value, service) in json.loads(body).items()}
    return found
