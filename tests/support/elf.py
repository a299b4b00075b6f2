"""Small ELF files: some that only have notes, made by hand; and a guest for PVH, made by gcc and ld."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

from tests.support.debian import program

if TYPE_CHECKING:
    from pathlib import Path

SAYS = "a guest of jitsu has been entered"
"""What the guest prints, on Xen's debug port; `xl dmesg` shows it with guest_loglvl=all."""
_SOURCE = f"""
    .code32
    .globl _start
_start:
    cld
    mov $text, %esi
1:  lodsb
    test %al, %al
    jz 2f
    outb %al, $0xe9
    jmp 1b
2:  cli
    hlt
    jmp 2b
text: .asciz "{SAYS}\\n"
    .section .note.Xen, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long _start
"""
"""Processors that are all halted without interrupts are a domain that has powered itself off (hvm_hlt in Xen)."""


def pvh_guest(directory: Path) -> Path:
    """Return a kernel image that prints a line and halts."""
    source, compiled, image = (directory / f"guest.{suffix}" for suffix in ("S", "o", "elf"))
    source.write_text(_SOURCE)
    subprocess.run([program("gcc", "gcc"), "-m32", "-c", source, "-o", compiled], check=True)
    subprocess.run(
        [
            "ld",
            "-m",
            "elf_i386",
            "-z",
            "noseparate-code",
            "-Ttext-segment=0x100000",
            "-e",
            "_start",
            compiled,
            "-o",
            image,
        ],
        check=True,
    )
    return image


def with_notes(*kinds: int, owner: bytes = b"Xen\0", bits: int = 64, as_section: bool = False) -> bytes:
    """Return an ELF file that has such notes, as a segment or a section."""
    notes = b"".join(struct.pack("<III", len(owner), 4, kind) + owner.ljust(4, b"\0") + b"abcd" for kind in kinds)
    is_64 = bits == 64
    head, entry = (64, 64 if as_section else 56) if is_64 else (52, 40 if as_section else 32)
    at = head + entry
    if as_section:
        table = struct.pack("<IIQQQQIIQQ" if is_64 else "<IIIIIIIIII", 0, 7, 0, 0, at, len(notes), 0, 0, 4, 0)
    elif is_64:
        table = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), len(notes), 4)
    else:
        table = struct.pack("<IIIIIIII", 4, at, 0, 0, len(notes), len(notes), 4, 4)
    tables = (0, head) if as_section else (head, 0)
    counts = (head, 56 if is_64 else 32, 0, entry, 1, 0) if as_section else (head, entry, 1, 64 if is_64 else 40, 0, 0)
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, 1, 1]) + bytes(9)
    shape = "<HHIQQQIHHHHHH" if is_64 else "<HHIIIIIHHHHHH"
    return ident + struct.pack(shape, 2, 62, 1, 0, *tables, 0, *counts) + table + notes
