"""What a Solo5 image says about itself: for which tender it was built, and which devices it must be given.

Both stand in ELF notes of the owner "Solo5" (elf(5)). In the note ABI1, the first of four 32-bit numbers is the target.
The note MFT1 is the manifest: two 32-bit numbers, a version and a count, and then that many entries of 104 bytes. Each
entry begins with a name of 68 bytes, which ends at a NUL, and a 32-bit type. The first entry is reserved and nameless.
The manifest is aligned to 8 bytes, so that four bytes of padding stand between the note's head and the manifest.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]
    """(offset, size) -> up to that many bytes from there."""

TARGETS = {1: "hvt", 2: "spt", 3: "virtio", 4: "muen", 5: "genode", 6: "xen"}
ABI, MANIFEST = 0x31494241, 0x3154464D
"""Types of the notes: "ABI1" and "MFT1" as little-endian numbers."""
BLOCK, NETWORK = 1, 2
MAX_ENTRIES = 64
MAX_PROGRAM_HEADERS = 256
_OWNER = b"Solo5\0"
_PT_NOTE = 4
_NOTE_HEAD_BYTES = 20
"""Three 32-bit numbers, and the owner's name padded to 8 bytes."""
_MANIFEST_PADDING_BYTES = 4
_ENTRY_BYTES, _NAME_BYTES = 104, 68
_MAX_NOTE_BYTES = _MANIFEST_PADDING_BYTES + 8 + MAX_ENTRIES * _ENTRY_BYTES
_NAME = re.compile(r"[A-Za-z0-9]{1,67}")
"""What the tenders accept in --net:NAME=... and --block:NAME=..."""


class ManifestFault(ValueError):
    """A file is not an image that a tender can run; says why."""


@dataclass(frozen=True)
class Manifest:
    """What an image says about itself."""

    target: str
    """The kind of tender that runs it: spt, hvt, or one that is not a process, as virtio or xen."""
    networks: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


def read_manifest(read_at: ReadAt) -> Manifest:
    """Read an image's notes; raises ManifestFault."""
    head = read_at(0, 64)
    if head[:4] != b"\x7fELF":
        raise ManifestFault("it is not an ELF file")
    if len(head) < 64 or head[4] != 2:
        raise ManifestFault("it is not a 64-bit ELF file")
    order = "<" if head[5] == 1 else ">"
    notes = dict(_notes(read_at, head, order))
    if ABI not in notes or MANIFEST not in notes:
        raise ManifestFault("it has no Solo5 manifest: it was not built for a Solo5 tender")
    number = struct.unpack_from(order + "I", notes[ABI].ljust(4, b"\0"))[0]
    devices = list(_devices(notes[MANIFEST], order))
    return Manifest(
        TARGETS.get(number, f"target {number}"),
        tuple(name for name, kind in devices if kind == NETWORK),
        tuple(name for name, kind in devices if kind == BLOCK),
    )


def manifest_of_tool(manifest: str, abi: str) -> Manifest:
    """Read what `solo5-elftool query-manifest` and `query-abi` have printed; raises ManifestFault."""
    try:
        devices = [(str(each["name"]), str(each["type"])) for each in json.loads(manifest)["devices"]]
        target = str(json.loads(abi)["target"])
    except (ValueError, KeyError, TypeError):
        raise ManifestFault("solo5-elftool does not print a manifest as it is known here") from None
    if bad := next((name for name, _ in devices if not _NAME.fullmatch(name)), None):
        raise ManifestFault(f"its Solo5 manifest names a device {bad!r}, which no tender accepts")
    return Manifest(
        target,
        tuple(name for name, kind in devices if kind == "NET_BASIC"),
        tuple(name for name, kind in devices if kind == "BLOCK_BASIC"),
    )


def _notes(read_at: ReadAt, head: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the notes of Solo5: each is the first of a segment of its own."""
    programs = struct.unpack_from(order + "Q", head, 32)[0]
    size, count = struct.unpack_from(order + "HH", head, 54)
    if size < 56 or count > MAX_PROGRAM_HEADERS:
        raise ManifestFault("its ELF program headers are damaged")
    table = read_at(programs, size * count)
    for at in range(0, len(table) - 55, size):
        kind, offset, length = struct.unpack_from(order + "I4xQ16xQ", table, at)
        if kind != _PT_NOTE or length < _NOTE_HEAD_BYTES:
            continue
        note = read_at(offset, min(length, _NOTE_HEAD_BYTES + _MAX_NOTE_BYTES))
        if len(note) < _NOTE_HEAD_BYTES:
            raise ManifestFault("it is cut short")
        name_bytes, content_bytes, note_type = struct.unpack_from(order + "III", note)
        if name_bytes == len(_OWNER) and note[12 : 12 + name_bytes] == _OWNER:
            yield note_type, note[_NOTE_HEAD_BYTES : _NOTE_HEAD_BYTES + content_bytes]


def _devices(content: bytes, order: str) -> Iterator[tuple[str, int]]:
    """Yield name and type of each device in a manifest."""
    manifest = content[_MANIFEST_PADDING_BYTES:]
    if len(manifest) < 8:
        raise ManifestFault("its Solo5 manifest is cut short")
    version, count = struct.unpack_from(order + "II", manifest)
    if version != 1:
        raise ManifestFault(f"its Solo5 manifest is of version {version}; only version 1 is known")
    if not 1 <= count <= MAX_ENTRIES or len(manifest) < 8 + count * _ENTRY_BYTES:
        raise ManifestFault("its Solo5 manifest is damaged")
    for n in range(1, count):
        entry = manifest[8 + n * _ENTRY_BYTES :][:_ENTRY_BYTES]
        name = entry[:_NAME_BYTES].split(b"\0", 1)[0].decode("ascii", "replace")
        if not _NAME.fullmatch(name):
            raise ManifestFault(f"its Solo5 manifest names a device {name!r}, which no tender accepts")
        yield name, struct.unpack_from(order + "I", entry, _NAME_BYTES)[0]
