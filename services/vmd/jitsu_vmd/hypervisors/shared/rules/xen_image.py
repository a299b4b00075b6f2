"""What a kernel image says about how Xen can boot it: its ELF notes (xen/include/public/elfnote.h).

A paravirtualised kernel (PV) has a note with its loader, or the section `__xen_guest` of older kernels. A kernel for
PVH has the note PHYS32_ENTRY, with the address at which it is entered. Linux has both, and stays PV. A file that is not
ELF, such as a bzImage of Linux, is unpacked by Xen's tools themselves: PV as well.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.vm_keys import GuestType

LOADER, PHYS32_ENTRY = 8, 18
MAX_UNPACKED_BYTES = 64 << 20
"""Of an image that is compressed with gzip, which Xen's tools unpack."""
_MAX_NOTES = 4096
_PT_NOTE, _SHT_NOTE = 4, 7


class ImageFault(ValueError):
    """The image cannot be booted by Xen; says why."""


def guest_type(image: bytes | memoryview) -> GuestType:
    """Return how Xen can boot an image; raises ImageFault."""
    if bytes(image[:2]) == b"\x1f\x8b":
        image = _unpacked(image)
    if bytes(image[:4]) != b"\x7fELF":
        return "pv"
    try:
        kinds, has_old_section = _xen_notes(memoryview(image))
    except (struct.error, IndexError, OverflowError):  # an offset may be of more than 63 bits
        raise ImageFault("it is an ELF file that is cut short or damaged") from None
    if LOADER in kinds or has_old_section:
        return "pv"
    if PHYS32_ENTRY in kinds:
        return "pvh"
    raise ImageFault("it is an ELF file without notes for Xen: it has neither a PV loader nor an entry for PVH")


def _unpacked(image: bytes | memoryview) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(image, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise ImageFault(f"it cannot be unpacked: {error}") from None


def _xen_notes(image: memoryview) -> tuple[set[int], bool]:
    """Return the types of its notes for Xen, and whether it has the section of older kernels (elf(5))."""
    is_64, order = image[4] == 2, "<" if image[5] == 1 else ">"
    if is_64:
        programs, sections = struct.unpack_from(order + "QQ", image, 32)
        sizes = struct.unpack_from(order + "HHHHH", image, 54)
    else:
        programs, sections = struct.unpack_from(order + "II", image, 28)
        sizes = struct.unpack_from(order + "HHHHH", image, 42)
    program_size, program_count, section_size, section_count, names_at = sizes
    found: set[int] = set()
    for n in range(program_count):
        at = programs + n * program_size
        kind = struct.unpack_from(order + "I", image, at)[0]
        if kind == _PT_NOTE:
            offset, size = (
                struct.unpack_from(order + "Q16xQ", image, at + 8)
                if is_64
                else struct.unpack_from(order + "I8xI", image, at + 4)
            )
            found |= _notes(image[offset : offset + size], order)
    headers = [_section(image, sections + n * section_size, order, is_64=is_64) for n in range(section_count)]
    for _, kind, offset, size in headers:
        if kind == _SHT_NOTE:
            found |= _notes(image[offset : offset + size], order)
    names = headers[names_at][2] if names_at < len(headers) else 0
    old = names > 0 and any(bytes(image[names + name : names + name + 12]) == b"__xen_guest\0" for name, *_ in headers)
    return found, old


def _section(image: memoryview, at: int, order: str, *, is_64: bool) -> tuple[int, int, int, int]:
    """Return name, type, offset and size of a section."""
    name, kind = struct.unpack_from(order + "II", image, at)
    offset, size = struct.unpack_from(order + ("QQ" if is_64 else "II"), image, at + (24 if is_64 else 16))
    return name, kind, offset, size


def _notes(notes: memoryview, order: str) -> set[int]:
    """Return the types of the notes for Xen: each has the sizes of its owner's name and of its value, and a type."""
    found, at = set(), 0
    for _ in range(_MAX_NOTES):
        if at + 12 > len(notes):
            break
        name, value, kind = struct.unpack_from(order + "III", notes, at)
        if bytes(notes[at + 12 : at + 12 + name]) == b"Xen\0":
            found.add(kind)
        at += 12 + (name + 3 & ~3) + (value + 3 & ~3)
    return found
