"""Git's pack files as bytes: write them, read what is in them, and store a tree as what differs from the one before.

A store writes each commit (or the few that came at once) as one small pack: two files to bring to the disk instead of
one for each object. Later many packs become one, in which a new version of a tree costs some fifty bytes. Why not by
libgit2's or git's own packing: they find by search, in some 40 ms for each tree of 10,000 VMs, what is known here.
See gitformat-pack(5).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING

from jitsu_store.rules.objects import Id, Kind

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterator

    from jitsu_store.rules.objects import GitObject

STORED_FROM_BYTES = 64 * 1024
"""A larger object is not compressed when it is first written: for a big tree that takes longer than the disk does."""
MAX_PACK_BYTES = 2**31 - 1
_CODES = {Kind.COMMIT: 1, Kind.TREE: 2, Kind.BLOB: 3, Kind.TAG: 4}
_KINDS = {code: kind.value for kind, code in _CODES.items()}
_OFS_DELTA, _REF_DELTA = 6, 7
_TRAILER_BYTES = 20
_MAX_COPY = 0xFFFFFF
_MAX_INSERT = 0x7F
_STORED_BLOCK = 0xFFFF
_SPLIT_BYTES = 32


@dataclass
class PackWriter:
    """Writes one pack, object by object; `out` takes the bytes."""

    out: Callable[[bytes | memoryview], object]
    count: int
    """How many objects it will have."""
    size: int = 0
    offsets: dict[Id, int] = field(default_factory=dict)
    _crcs: dict[Id, int] = field(default_factory=dict)
    _hash: hashlib._Hash = field(default_factory=lambda: sha1(usedforsecurity=False))

    def __post_init__(self) -> None:
        self._put(b"PACK" + (2).to_bytes(4, "big") + self.count.to_bytes(4, "big"))

    def add(self, thing: GitObject) -> None:
        """Write an object as it is."""
        deflated = stored(thing.data) if len(thing.data) >= STORED_FROM_BYTES else _deflate(thing.data)
        self._entry(thing.id, _CODES[thing.kind], len(thing.data), b"", deflated)

    def add_packed(self, thing: GitObject) -> None:
        """Write an object as it is, compressed however long that takes."""
        self._entry(thing.id, _CODES[thing.kind], len(thing.data), b"", _deflate(thing.data))

    def add_delta(self, id: Id, base: Id, delta: bytes) -> None:
        """Write an object as its difference from one that is in this pack already."""
        self._entry(id, _OFS_DELTA, len(delta), self._back_to(base), _deflate(delta))

    def add_copied(self, id: Id, entry: PackEntry, base: Id | None) -> None:
        """Write an entry of another pack without unpacking it; the base of a delta must be in this pack already."""
        back = b"" if base is None else self._back_to(base)
        self._entry(id, entry.code, entry.size, back, entry.deflated)

    def finish(self) -> bytes:
        """Write the trailer and return the pack's index."""
        assert len(self.offsets) == self.count
        checksum = self._hash.digest()
        self.out(checksum)
        ids = sorted(self.offsets)
        fanout, seen = bytearray(), 0
        for first in range(256):
            while seen < len(ids) and ids[seen][0] == first:
                seen += 1
            fanout += seen.to_bytes(4, "big")
        index = b"\xfftOc" + (2).to_bytes(4, "big") + bytes(fanout) + b"".join(ids)
        index += b"".join(self._crcs[id].to_bytes(4, "big") for id in ids)
        index += b"".join(self.offsets[id].to_bytes(4, "big") for id in ids) + checksum
        return index + sha1(index, usedforsecurity=False).digest()

    def _back_to(self, base: Id) -> bytes:
        distance = self.size - self.offsets[base]
        parts = [distance & 0x7F]
        while distance := distance >> 7:
            distance -= 1
            parts.append(0x80 | (distance & 0x7F))
        return bytes(reversed(parts))

    def _entry(self, id: Id, code: int, size: int, back: bytes, deflated: bytes | memoryview) -> None:
        if self.size + len(deflated) > MAX_PACK_BYTES:
            raise ValueError("the pack would be larger than 2 GiB")
        head = _entry_head(code, size) + back
        self.offsets[id] = self.size
        self._crcs[id] = zlib.crc32(deflated, zlib.crc32(head))
        self._put(head)
        self._put(deflated)

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.out(data)
        self.size += len(data)


@dataclass(frozen=True)
class PackEntry:
    """What a pack holds for one object."""

    code: int
    size: int
    """Of the object, or of the delta, in bytes."""
    base_at: int | None
    """Where the base of a delta begins."""
    base_id: Id | None
    """The base of a delta that names it."""
    deflated: memoryview

    @property
    def kind(self) -> str:
        """The kind of the object, "" if this is a delta."""
        return _KINDS.get(self.code, "")


@dataclass(frozen=True)
class PackReader:
    """The entries of one pack, from the bytes of its two files."""

    pack: memoryview
    index: memoryview

    def places(self) -> list[tuple[int, Id]]:
        """Return where each object begins, in the order in which they stand; raises ValueError."""
        if bytes(self.index[:8]) != b"\xfftOc\0\0\0\2" or bytes(self.pack[:8]) != b"PACK\0\0\0\2":
            raise ValueError("not a pack of version 2")
        count = int.from_bytes(self.index[8 + 255 * 4 : 8 + 256 * 4], "big")
        ids = 8 + 256 * 4
        offsets = ids + 24 * count
        found = [
            (
                int.from_bytes(self.index[offsets + 4 * n : offsets + 4 * n + 4], "big"),
                bytes(self.index[ids + 20 * n : ids + 20 * n + 20]),
            )
            for n in range(count)
        ]
        if any(offset > MAX_PACK_BYTES for offset, _ in found):
            raise ValueError("the pack is larger than 2 GiB")
        return sorted(found)

    def entries(self) -> Iterator[tuple[Id, int, PackEntry]]:
        """Yield id, offset and entry in the order in which they stand."""
        places = self.places()
        ends = [offset for offset, _ in places[1:]] + [len(self.pack) - _TRAILER_BYTES]
        for (offset, id), end in zip(places, ends, strict=True):
            yield id, offset, self._entry(offset, end)

    def _entry(self, offset: int, end: int) -> PackEntry:
        at, byte = offset + 1, self.pack[offset]
        code, size, shift = (byte >> 4) & 7, byte & 0x0F, 4
        while byte & 0x80:
            byte = self.pack[at]
            size |= (byte & 0x7F) << shift
            shift += 7
            at += 1
        base_at = base_id = None
        if code == _OFS_DELTA:
            byte = self.pack[at]
            at += 1
            distance = byte & 0x7F
            while byte & 0x80:
                byte = self.pack[at]
                at += 1
                distance = ((distance + 1) << 7) | (byte & 0x7F)
            base_at = offset - distance
        elif code == _REF_DELTA:
            base_id = bytes(self.pack[at : at + 20])
            at += 20
        return PackEntry(code, size, base_at, base_id, self.pack[at:end])


def _entry_head(code: int, size: int) -> bytes:
    byte, size = (code << 4) | (size & 0x0F), size >> 4
    head = bytearray()
    while size:
        head.append(0x80 | byte)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head)


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data, 6)


def stored(data: bytes) -> bytes:
    """Return a zlib stream that holds the data uncompressed (RFC 1950; RFC 1951, 3.2.4), faster than zlib makes it."""
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    view = memoryview(data)
    for at in range(0, max(len(data), 1), _STORED_BLOCK):
        block = view[at : at + _STORED_BLOCK]
        last = at + _STORED_BLOCK >= len(data)
        size = len(block)
        parts.append(bytes((last,)) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little"))
        parts.append(block)
    parts.append(zlib.adler32(data).to_bytes(4, "big"))
    return b"".join(parts)


def delta(base: bytes, target: bytes) -> bytes:
    """Return how to make the target from the base: copies and insertions.

    Finds what is the same at the same place; where the lengths differ, at the same distance from the end as well.
    That is what two versions of a tree or a commit have in common.
    """
    out = bytearray(_varint(len(base)) + _varint(len(target)))
    if len(base) == len(target):
        at = 0
        for begin, end in _regions(base, target, 0, len(base)):
            _copy(out, at, begin - at)
            _insert(out, target[begin:end])
            at = end
        _copy(out, at, len(base) - at)
        return bytes(out)
    limit = min(len(base), len(target))
    head = _common(lambda n: base[:n] == target[:n], limit)
    tail = _common(lambda n: base[len(base) - n :] == target[len(target) - n :], limit - head)
    _copy(out, 0, head)
    _insert(out, target[head : len(target) - tail])
    _copy(out, len(base) - tail, tail)
    return bytes(out)


def _common(same: Callable[[int], bool], limit: int) -> int:
    """Return the largest n up to the limit for which the first n are the same."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if same(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _regions(base: bytes, target: bytes, begin: int, end: int) -> list[tuple[int, int]]:
    """Return where two strings of one length differ, in pieces that are joined when they touch."""
    if base[begin:end] == target[begin:end]:
        return []
    if end - begin <= _SPLIT_BYTES:
        while base[begin] == target[begin]:
            begin += 1
        while base[end - 1] == target[end - 1]:
            end -= 1
        return [(begin, end)]
    middle = (begin + end) // 2
    left, right = _regions(base, target, begin, middle), _regions(base, target, middle, end)
    if left and right and right[0][0] - left[-1][1] < 8:  # a copy costs up to 8 bytes
        joined = (left[-1][0], right[0][1])
        return [*left[:-1], joined, *right[1:]]
    return left + right


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)
    return bytes(out)


def _copy(out: bytearray, at: int, size: int) -> None:
    while size > 0:
        part = min(size, _MAX_COPY)
        code, arguments = 0x80, bytearray()
        for bit, byte in enumerate(at.to_bytes(4, "little")):
            if byte:
                code |= 1 << bit
                arguments.append(byte)
        for bit, byte in enumerate(part.to_bytes(3, "little")):
            if byte:
                code |= 0x10 << bit
                arguments.append(byte)
        out.append(code)
        out += arguments
        at, size = at + part, size - part


def _insert(out: bytearray, data: bytes) -> None:
    for at in range(0, len(data), _MAX_INSERT):
        part = data[at : at + _MAX_INSERT]
        out.append(len(part))
        out += part
