"""DNS cookies (RFC 7873) in the form of RFC 9018: they show that a client receives what is sent to its address.

    client cookie (8)  version 1 (1)  reserved (3)  time (4)  SipHash-2-4 of all that and the address (8)

Replicas on one address share the secret, so that each recognises the cookies of the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import siphash24

SECRET_BYTES = 16
CLIENT_BYTES = 8
FULL_BYTES = 24
MAX_AGE_S = 3600  # RFC 9018, 4.3
MAX_AHEAD_S = 300
RENEW_S = 1800
_MIDDLE = struct.Struct("!B3xI")


@dataclass(frozen=True)
class Cookies:
    """The cookies of one secret."""

    secret: bytes

    def is_valid(self, cookie: bytes, address: bytes, wall_s: float) -> bool:
        """Return whether a cookie is one of ours, for that address, and not too old; `wall_s` is Unix time."""
        if len(cookie) != FULL_BYTES:
            return False
        _, made_at = _MIDDLE.unpack(cookie[8:16])
        age = (int(wall_s) - made_at + 2**31) % 2**32 - 2**31  # RFC 1982: serial number arithmetic
        return -MAX_AHEAD_S <= age <= MAX_AGE_S and self._make(cookie[:8], made_at, address) == cookie

    def answer(self, cookie: bytes, address: bytes, wall_s: float) -> bytes:
        """Return the cookie for a response: the client's own if that stays valid for a while, else a new one."""
        if self.is_valid(cookie, address, wall_s):
            _, made_at = _MIDDLE.unpack(cookie[8:16])
            if int(wall_s) - made_at < RENEW_S:
                return cookie
        return self._make(cookie[:CLIENT_BYTES], int(wall_s) % 2**32, address)

    def _make(self, client: bytes, made_at: int, address: bytes) -> bytes:
        head = client + _MIDDLE.pack(1, made_at)
        return head + bytes(siphash24.siphash24(head + address, key=self.secret).digest())
