"""The call of D-Bus that has systemd make a scope for a process (org.freedesktop.systemd1(5), StartTransientUnit).

The messages are little-endian, and have only the types that this call needs (D-Bus specification, "Message Protocol").
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE = "jitsu-guests.slice"
"""All guests are in it: its limits are limits for all of them."""
_METHOD_CALL, _METHOD_RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_MANAGER = "org.freedesktop.systemd1"
_FIXED = struct.Struct("<cBBBIII")
"""Byte order, type, flags, version; the lengths of the body, the serial, and the length of the header fields."""
MAX_BYTES = 1 << 16
"""A reply is a path or the text of an error."""


class _Writer:
    """A part of a message; each value begins at a multiple of its type's alignment."""

    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, to: int) -> None:
        self.data += bytes(-len(self.data) % to)

    def number(self, value: int) -> None:
        self.pad(4)
        self.data += struct.pack("<I", value)

    def text(self, value: str) -> None:
        raw = value.encode()
        self.number(len(raw))
        self.data += raw + b"\0"

    def signature(self, value: str) -> None:
        self.data += bytes([len(value)]) + value.encode() + b"\0"

    @contextmanager
    def array(self, alignment: int) -> Iterator[None]:
        self.number(0)
        length_at = len(self.data) - 4
        self.pad(alignment)  # which does not count for the length
        begun = len(self.data)
        yield
        struct.pack_into("<I", self.data, length_at, len(self.data) - begun)

    def property(self, name: str, value: str | list[int]) -> None:
        """Append one of the unit's properties, as `(sv)`."""
        self.pad(8)
        self.text(name)
        if isinstance(value, str):
            self.signature("s")
            self.text(value)
            return
        self.signature("au")
        with self.array(4):
            for each in value:
                self.number(each)


def scope_name(hypervisor: str, vm: str, pid: int) -> str:
    """Return what the scope of a process is called; the last one of the VM may still be ending."""
    return f"jitsu-{hypervisor}-{vm}-{pid}.scope"


def start_scope(name: str, pid: int, description: str) -> bytes:
    """Return the message that moves a process into a scope of its own."""
    body = _Writer()
    body.text(name)
    body.text("fail")  # if there is one of that name
    with body.array(8):
        body.property("Description", description)
        body.property("Slice", SLICE)
        body.property("CollectMode", "inactive-or-failed")  # a guest that crashes leaves no failed unit behind
        body.property("PIDs", [pid])
    with body.array(8):
        pass  # no other units
    head = _Writer()
    head.data += _FIXED.pack(b"l", _METHOD_CALL, 0, 1, len(body.data), 1, 0)
    fields = {_PATH: ("o", "/org/freedesktop/systemd1"), _INTERFACE: ("s", f"{_MANAGER}.Manager")}
    fields |= {_MEMBER: ("s", "StartTransientUnit"), _DESTINATION: ("s", _MANAGER)}
    begun = len(head.data)
    for field, (kind, value) in fields.items():
        head.pad(8)
        head.data.append(field)
        head.signature(kind)
        head.text(value)
    head.pad(8)
    head.data.append(_SIGNATURE)
    head.signature("g")
    head.signature("ssa(sv)a(sa(sv))")
    struct.pack_into("<I", head.data, _FIXED.size - 4, len(head.data) - begun)
    head.pad(8)
    return bytes(head.data + body.data)


def reply_length(got: bytes) -> int:
    """Return the length of the message that begins so, 0 if more is needed to tell; raises ValueError."""
    if len(got) < _FIXED.size:
        return 0
    order, _, _, _, body, _, fields = _FIXED.unpack_from(got)
    length: int = _FIXED.size + fields + -fields % 8 + body
    if order != b"l" or length > MAX_BYTES:
        raise ValueError("systemd answers with something that is not a short message of D-Bus")
    return length


def refusal(message: bytes) -> str | None:
    """Return why systemd has refused the call, "" if it has not, and None if the message is not its reply."""
    _, kind, _, _, body, _, _ = _FIXED.unpack_from(message)
    if kind not in (_METHOD_RETURN, _ERROR):
        return None
    if kind == _METHOD_RETURN:
        return ""
    return message[len(message) - body + 4 : -1].decode(errors="replace") if body > 5 else "it gives no reason"
