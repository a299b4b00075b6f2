"""IPv6 frames with extension headers, for tests of Synjitsu."""

from __future__ import annotations

import struct


def behind_extension(frame: bytes, extension: int, header_bytes: int = 8) -> bytes:
    """Return an IPv6 frame with one more header (RFC 8200, 4): options that do nothing, or a fragment header."""
    next_header, payload = frame[14 + 6], frame[14 + 40 :]
    if extension == 44:
        header = bytes([next_header, 0]) + struct.pack("!HI", 1, 77)  # the first fragment, and more follow
    else:
        header = bytes([next_header, header_bytes // 8 - 1, 1, header_bytes - 4]) + bytes(header_bytes - 4)
    size = (len(header) + len(payload)).to_bytes(2, "big")
    return frame[:18] + size + bytes([extension]) + frame[21:54] + header + payload
