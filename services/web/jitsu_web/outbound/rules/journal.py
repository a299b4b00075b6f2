"""The queue of events as it stands in its file: who still has to get which event, and which are dead letters.

The file is a journal. Each line is one record with its CRC-32 in front, written before anything follows from it:

    event    an event, and the names of its targets
    done     a target has an event
    dead     a target has not taken an event, and will not be tried again; with the reason
    again    an operator has a dead letter sent once more
    gone     an event is forgotten: the queue is full, or an operator has discarded its dead letters

A process that dies leaves at most one line without its end; that record was not acknowledged to anybody. A line whose
CRC is wrong is left out and counted. What is still needed is at most half of the file's limit: beyond that the oldest
events go, dead letters first. So a file that has grown to its limit can always be written again at half its length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from jitsu_web.outbound.rules.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_RECORD_BYTES = 64 * 1024


@dataclass
class QueueEntry:
    """An event that somebody still has to get, or that is a dead letter."""

    notice: Notice
    size: int
    """Of its records in the file, in bytes."""
    pending: set[str]
    """Targets that do not have it yet."""
    dead: dict[str, str] = field(default_factory=dict)
    """Target -> why it has not taken the event."""


@dataclass(frozen=True)
class Eviction:
    """An event that a target will not get, because the queue is full."""

    target: str
    key: str
    id: str


@dataclass
class Journal:
    """The queue. Methods that change it return what is to be appended to the file first."""

    limit_bytes: int
    """Of what is still needed."""
    entries: dict[str, QueueEntry] = field(default_factory=dict)
    """By id, the oldest first."""
    needed_bytes: int = 0
    lost: int = 0
    """Events that were dropped since the start, because the queue was full."""
    damaged: int = 0
    """Lines of the file that could not be read."""
    _dead: dict[str, None] = field(default_factory=dict)
    """The ids of the events with dead letters, those that died first first."""

    def load(self, data: bytes, targets: Iterable[str]) -> int:
        """Take what an earlier process left for these targets; returns how many bytes of it are whole lines."""
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            record = decode(line)
            if record is None or not self._apply(record):
                self.damaged += 1
        known = set(targets)
        for entry in list(self.entries.values()):
            entry.pending &= known
            entry.dead = {target: why for target, why in entry.dead.items() if target in known}
            if not entry.dead:
                self._dead.pop(entry.notice.id, None)
            self._drop_if_done(entry)
        return whole

    def record(self, notice: Notice, targets: Iterable[str]) -> tuple[bytes, list[Eviction]]:
        """Add an event; returns also who does not get which older event because of it."""
        names = sorted(targets)
        line = encode({"r": "event", "to": names, **_of_notice(notice)})
        self._add(QueueEntry(notice, len(line), set(names)))
        evictions: list[Eviction] = []
        lines = [line]
        while self.needed_bytes > self.limit_bytes and len(self.entries) > 1:
            oldest = self._next_to_go(notice.id)
            evictions += [Eviction(target, oldest.notice.key, oldest.notice.id) for target in sorted(oldest.pending)]
            lines.append(self._gone(oldest))
            self.lost += 1
        return b"".join(lines), evictions

    def done(self, id: str, target: str) -> bytes:
        """Note that a target has an event."""
        return self._changed({"r": "done", "id": id, "at": target})

    def bury(self, id: str, target: str, reason: str) -> bytes:
        """Note that a target will not be sent an event again."""
        return self._changed({"r": "dead", "id": id, "at": target, "why": reason[:500]})

    def again(self, id: str, target: str) -> bytes:
        """Note that a dead letter is to be sent once more; b"" if there is no such letter."""
        entry = self.entries.get(id)
        if entry is None or target not in entry.dead:
            return b""
        return self._changed({"r": "again", "id": id, "at": target})

    def discard(self, id: str) -> bytes:
        """ForgetLetter an event whose letters are all dead; b"" if there is none."""
        entry = self.entries.get(id)
        return self._gone(entry) if entry is not None and entry.dead and not entry.pending else b""

    def dead(self) -> list[QueueEntry]:
        """Return the events that some target has not taken, those that were given up first first."""
        return [self.entries[id] for id in self._dead]

    def count_dead(self) -> int:
        """Return how many events some target has not taken; may be called on another thread."""
        return len(self._dead)

    def compact(self) -> bytes:
        """Return a file with nothing but what is still needed."""
        lines = []
        for entry in self.entries.values():
            targets = sorted({*entry.pending, *entry.dead})
            lines.append(encode({"r": "event", "to": targets, **_of_notice(entry.notice)}))
            for target, why in entry.dead.items():
                lines.append(encode({"r": "dead", "id": entry.notice.id, "at": target, "why": why}))
        return b"".join(lines)

    # --- below ---

    def _changed(self, record: dict[str, Any]) -> bytes:
        return encode(record) if self._apply(record) else b""

    def _apply(self, record: dict[str, Any]) -> bool:
        """Change the queue as a record says; returns False if it makes no sense, as after a damaged line."""
        try:
            if record["r"] == "event":
                notice = Notice(*(record[key] for key in ("id", "ts", "kind", "key", "subject", "data")))
                self._add(QueueEntry(notice, len(encode(record)), set(record["to"])))
                return True
            entry = self.entries.get(record["id"])
            if entry is None:
                return bool(record["r"] == "gone")
            match record["r"]:
                case "done":
                    entry.pending.discard(record["at"])
                case "dead":
                    entry.pending.discard(record["at"])
                    entry.dead[record["at"]] = record["why"]
                    entry.size += (size := len(encode(record)))
                    self.needed_bytes += size
                    self._dead[entry.notice.id] = None
                case "again":
                    entry.dead.pop(record["at"], None)
                    entry.pending.add(record["at"])
                    if not entry.dead:
                        self._dead.pop(entry.notice.id, None)
                case "gone":
                    self._drop(entry)
                    return True
                case _:
                    return False
            self._drop_if_done(entry)
        except (KeyError, TypeError):
            return False
        return True

    def _next_to_go(self, but: str) -> QueueEntry:
        """Return the oldest dead letter, or else the oldest event; never the one that has just come."""
        dead = (self.entries[id] for id in self._dead)
        found = next((entry for entry in dead if not entry.pending and entry.notice.id != but), None)
        return found or next(entry for id, entry in self.entries.items() if id != but)

    def _gone(self, entry: QueueEntry) -> bytes:
        self._drop(entry)
        return encode({"r": "gone", "id": entry.notice.id})

    def _add(self, entry: QueueEntry) -> None:
        if (before := self.entries.get(entry.notice.id)) is not None:
            self._drop(before)
        self.entries[entry.notice.id] = entry
        self.needed_bytes += entry.size

    def _drop(self, entry: QueueEntry) -> None:
        del self.entries[entry.notice.id]
        self._dead.pop(entry.notice.id, None)
        self.needed_bytes -= entry.size

    def _drop_if_done(self, entry: QueueEntry) -> None:
        if not entry.pending and not entry.dead:
            self._drop(entry)


def encode(record: dict[str, Any]) -> bytes:
    """Return a record as a line."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if the line is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _of_notice(notice: Notice) -> dict[str, Any]:
    return {
        "id": notice.id,
        "ts": notice.ts,
        "kind": notice.kind,
        "key": notice.key,
        "subject": notice.subject,
        "data": notice.data,
    }
