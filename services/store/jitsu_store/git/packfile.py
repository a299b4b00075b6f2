"""Git's packfiles as bytes: writing them, reading them, and storing a tree as its difference from another one.

A store writes each commit (or the few that came at once) as one small pack: two files to bring to the disk instead of
one for each object. Later many packs become one, in which a new version of a tree costs some fifty bytes. Why not by
libgit2's or git's own packing: they find by search, in some 40 ms for each tree of 10,000 VMs, what is known here.
See gitformat-pack(5).
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING

from jitsu_store.git.objects import ID_BYTES, Id, ObjectKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jitsu_store.git.objects import GitObject

SMALL_BYTES = 64
"""A smaller object is not compressed when it is first written: it is a short value, which zlib makes no smaller; and a
first commit of 10,000 VMs has 70,000 of them."""
SMALL_TREE_BYTES = 1024
"""The same for a tree. Half of its bytes are ids: zlib would save a tenth of it, and take as long as the rest of the
landing. A later repack compresses it."""
STORED_FROM_BYTES = 64 * 1024
"""A larger object is not compressed when it is first written: for a big tree that takes longer than the disk does. In a
packfile of MANY_OBJECTS it is, because everything else takes longer still."""
MANY_OBJECTS = 1000
BUFFER_BYTES = 64 * 1024
"""Small entries are hashed and written together, so much at a time."""
MAX_PACK_BYTES = 2**31 - 1
_CODES = {ObjectKind.COMMIT: 1, ObjectKind.TREE: 2, ObjectKind.BLOB: 3, ObjectKind.TAG: 4}
_KINDS = {code: kind.value for kind, code in _CODES.items()}
_OFS_DELTA, _REF_DELTA = 6, 7
_TRAILER_BYTES = 20
_FIRST_ID = 8 + 256 * 4
"""Where the ids begin in an index: behind its head and its table of first bytes."""
_MAX_COPY = 0xFFFFFF
_MAX_INSERT = 0x7F
_STORED_BLOCK = 0xFFFF
_SPLIT_BYTES = 32


class Ids:
    """Sorted ids of objects in one string: 20 bytes for each instead of the hundred that a dictionary takes."""

    def __init__(self, ids: Iterable[Id]) -> None:
        """`ids` are sorted; duplicates count once."""
        raw, last = bytearray(), b""
        for id in ids:
            if id != last:
                raw += id
                last = id
        self._raw = bytes(raw)
        self._starts = [0] * 257
        for at in range(0, len(raw), ID_BYTES):
            self._starts[raw[at] + 1] += 1
        for first in range(256):
            self._starts[first + 1] += self._starts[first]

    def __len__(self) -> int:
        """Return how many ids there are."""
        return len(self._raw) // ID_BYTES

    def __iter__(self) -> Iterator[Id]:
        """Yield the ids in their order."""
        for at in range(0, len(self._raw), ID_BYTES):
            yield self._raw[at : at + ID_BYTES]

    def find(self, id: Id) -> int:
        """Return the place of an id, counted from 0; raises KeyError."""
        low, high = self._starts[id[0]], self._starts[id[0] + 1]
        while low < high:
            middle = (low + high) // 2
            found = self._raw[middle * ID_BYTES : middle * ID_BYTES + ID_BYTES]
            if found == id:
                return middle
            if found < id:
                low = middle + 1
            else:
                high = middle
        raise KeyError(id.hex())

    def index(self, crcs: array[int], offsets: array[int], checksum: bytes) -> bytes:
        """Return the index of a packfile that has these objects at these offsets."""
        parts = [b"\xfftOc", (2).to_bytes(4, "big")]
        parts += [count.to_bytes(4, "big") for count in self._starts[1:]]
        parts += [self._raw, _big_endian(crcs), _big_endian(offsets), checksum]
        index = b"".join(parts)
        return index + sha1(index, usedforsecurity=False).digest()


class PackfileWriter:
    """Writes one packfile, object by object. `out` is called with the bytes."""

    def __init__(
        self,
        out: Callable[[bytes | bytearray], object],
        ids: Ids,
        find: Callable[[Id], int] | None = None,
    ) -> None:
        """`ids` are those of all objects that the packfile will have.

        `find` returns the place of an id among them, counted from 0. A caller that has memory to spare gives a faster
        one than that of `ids`.
        """
        self._out = out
        self._ids = ids
        self._find = find or ids.find
        self._written = 0
        self._size = 0
        self._offsets = array("I", bytes(4 * len(ids)))
        """Where each object begins; 0 for one that is not written yet."""
        self._crcs = array("I", bytes(4 * len(ids)))
        self._hash = sha1(usedforsecurity=False)
        self._buffer = bytearray()
        self._put(b"PACK" + (2).to_bytes(4, "big") + len(ids).to_bytes(4, "big"))

    def __contains__(self, id: Id) -> bool:
        """Say whether an object has been written."""
        return self._offsets[self._find(id)] > 0

    def add(self, thing: GitObject) -> None:
        """Write an object as it is."""
        size = len(thing.data)
        if size < (SMALL_TREE_BYTES if thing.kind is ObjectKind.TREE else SMALL_BYTES):
            deflated = stored_small(thing.data)
        else:
            deflated = self._large(thing.data) if size >= STORED_FROM_BYTES else _deflate(thing.data)
        self._entry(thing.id, _CODES[thing.kind], len(thing.data), b"", deflated)

    def _large(self, data: bytes) -> bytes:
        return stored(data) if len(self._ids) < MANY_OBJECTS else zlib.compress(data, 1)

    def add_packed(self, thing: GitObject) -> None:
        """Write an object as it is, compressed however long that takes."""
        self._entry(thing.id, _CODES[thing.kind], len(thing.data), b"", _deflate(thing.data))

    def add_delta(self, id: Id, base: Id, delta: bytes) -> None:
        """Write an object as its difference from one that is in this packfile already."""
        self._entry(id, _OFS_DELTA, len(delta), self._back_to(base), _deflate(delta))

    def add_copied(self, id: Id, entry: PackfileEntry) -> None:
        """Copy an entry of another packfile as it is. The base of a delta must be in this packfile already."""
        code, back = (entry.code, b"") if entry.base is None else (_OFS_DELTA, self._back_to(entry.base))
        self._entry(id, code, entry.size, back, entry.deflated)

    def finish(self) -> bytes:
        """Write the trailer, and return the index of the packfile."""
        assert self._written == len(self._ids)
        self._flush()
        checksum = self._hash.digest()
        self._out(checksum)
        return self._ids.index(self._crcs, self._offsets, checksum)

    def _back_to(self, base: Id) -> bytes:
        at = self._offsets[self._find(base)]
        assert at
        distance = self._size - at
        parts = [distance & 0x7F]
        while distance := distance >> 7:
            distance -= 1
            parts.append(0x80 | (distance & 0x7F))
        return bytes(reversed(parts))

    def _entry(self, id: Id, code: int, size: int, back: bytes, deflated: bytes | memoryview) -> None:
        if self._size + len(deflated) > MAX_PACK_BYTES:
            raise ValueError("the pack would be larger than 2 GiB")
        head = (bytes((code << 4 | size,)) if size < 16 else _entry_head(code, size)) + back
        number = self._find(id)
        self._offsets[number] = self._size
        self._crcs[number] = zlib.crc32(deflated, zlib.crc32(head))
        self._written += 1
        self._put(head)
        self._put(deflated)

    def _put(self, data: bytes | memoryview) -> None:
        self._buffer += data
        self._size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(self._buffer)
        self._out(self._buffer)
        self._buffer = bytearray()  # `out` may keep what it was given


@dataclass(frozen=True)
class PackfileEntry:
    """What a packfile holds for one object."""

    code: int
    size: int
    """Bytes of the object, or of the delta."""
    base: Id | None
    """The object on which a delta is based."""
    is_base_here: bool
    """The base comes before it in the same packfile."""
    deflated: memoryview

    @property
    def kind(self) -> str:
        """The kind of the object, "" if this is a delta."""
        return _KINDS.get(self.code, "")


@dataclass(frozen=True)
class PackfileReader:
    """The entries of one packfile, from the bytes of its two files."""

    pack: memoryview
    index: memoryview

    def ids(self) -> Iterator[Id]:
        """Yield the ids of all objects, sorted; raises ValueError."""
        for number in range(self._count()):
            yield self._id(number)

    def entries(self) -> Iterator[tuple[Id, int, PackfileEntry]]:
        """Yield id, offset and entry, in the order of the file; raises ValueError."""
        count = self._count()
        at = _FIRST_ID + (ID_BYTES + 4) * count
        offsets = _from_big_endian(self.index[at : at + 4 * count])
        if any(offset > MAX_PACK_BYTES for offset in offsets):
            raise ValueError("the pack is larger than 2 GiB")
        order = sorted(range(count), key=offsets.__getitem__)
        starts = array("I", (offsets[number] for number in order))
        for place, number in enumerate(order):
            begin = starts[place]
            end = starts[place + 1] if place + 1 < count else len(self.pack) - _TRAILER_BYTES
            code, size, back, base, at = self._head(begin)
            if back:
                before = bisect_left(starts, begin - back)
                if before >= place or starts[before] != begin - back:
                    raise ValueError(f"what stands at {begin} is based on nothing in this pack")
                base = self._id(order[before])
            yield self._id(number), begin, PackfileEntry(code, size, base, back > 0, self.pack[at:end])

    def _count(self) -> int:
        if bytes(self.index[:8]) != b"\xfftOc\0\0\0\2" or bytes(self.pack[:8]) != b"PACK\0\0\0\2":
            raise ValueError("not a pack of version 2")
        return int.from_bytes(self.index[_FIRST_ID - 4 : _FIRST_ID], "big")

    def _id(self, number: int) -> Id:
        return bytes(self.index[_FIRST_ID + ID_BYTES * number : _FIRST_ID + ID_BYTES * (number + 1)])

    def _head(self, offset: int) -> tuple[int, int, int, Id | None, int]:
        """Return code, size, how far back the base is, the base if it is named, and where the deflated part begins."""
        at, byte = offset + 1, self.pack[offset]
        code, size, shift = (byte >> 4) & 7, byte & 0x0F, 4
        while byte & 0x80:
            byte = self.pack[at]
            size |= (byte & 0x7F) << shift
            shift += 7
            at += 1
        if code == _OFS_DELTA:
            byte = self.pack[at]
            at += 1
            distance = byte & 0x7F
            while byte & 0x80:
                byte = self.pack[at]
                at += 1
                distance = ((distance + 1) << 7) | (byte & 0x7F)
            return code, size, distance, None, at
        if code == _REF_DELTA:
            return code, size, 0, bytes(self.pack[at : at + ID_BYTES]), at + ID_BYTES
        return code, size, 0, None, at


def _big_endian(numbers: array[int]) -> bytes:
    swapped = array("I", numbers)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


def _from_big_endian(raw: memoryview) -> array[int]:
    numbers = array("I", bytes(raw))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


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


def stored_small(data: bytes) -> bytes:
    """Do what `stored` does for data that fits into one block, in half a microsecond."""
    size = len(data)
    head = b"\x78\x01\x01" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
    return head + data + zlib.adler32(data).to_bytes(4, "big")


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


def apply_delta(base: bytes, difference: bytes) -> tuple[bytes, list[tuple[int, int]] | None]:
    """Return the target that a delta makes of the base, and what it inserts (begin, end); raises ValueError.

    The second is None unless all else stands where it stood.
    """
    at, sizes = 0, []
    for _ in range(2):
        size = shift = 0
        while True:
            byte = difference[at]
            at, size, shift = at + 1, size | (byte & 0x7F) << shift, shift + 7
            if not byte & 0x80:
                break
        sizes.append(size)
    parts: list[bytes] = []
    inserted: list[tuple[int, int]] = []
    is_in_place, done = sizes[0] == sizes[1] == len(base), 0
    while at < len(difference):
        code = difference[at]
        at += 1
        if code & 0x80:
            source, size, at = _copied(difference, code, at)
            part = base[source : source + size]
            is_in_place &= source == done
        else:
            size, part = code, difference[at : at + code]
            at += code
            inserted.append((done, done + code))
        if not code or len(part) != size or done + size > sizes[1]:
            raise ValueError("a delta is damaged")
        parts.append(part)
        done += size
    if done != sizes[1] or sizes[0] != len(base):
        raise ValueError("a delta is damaged")
    return b"".join(parts), inserted if is_in_place else None


def _copied(difference: bytes, code: int, at: int) -> tuple[int, int, int]:
    """Return from where and how much a delta copies, and where its next instruction begins."""
    source = size = 0
    for bit in range(7):
        if code & (1 << bit):
            if bit < 4:
                source |= difference[at] << (8 * bit)
            else:
                size |= difference[at] << (8 * (bit - 4))
            at += 1
    return source, size or 0x10000, at


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
