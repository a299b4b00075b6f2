"""PageSessions of the page: what a browser keeps in a cookie instead of the token.

A cookie says which token it was made with and until when it counts, and carries a MAC over that, under a key that only
this process and its successors have. Nothing is kept of a session, so it outlives a restart; and it ends when its token
does, because the MAC covers the token's digest, and the token is looked up at each request.

    v1.NAME.EXPIRES.NONCE.MAC      NAME in base64url, EXPIRES in Unix time, MAC over all before it and the digest

A change by way of a session needs another MAC of it in a header (`csrf_of`): a page of another site can have a browser
send the cookie, if at all, and never that header.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.messages.tokens import TokenDigest
    from jitsu_web.rules.tokens import TokenTable

SESSION_S = 7 * 86_400.0
MAX_COOKIE_CHARACTERS = 512
KEY_BYTES = 32


@dataclass(frozen=True)
class OpenSession:
    """A session whose cookie was accepted."""

    token: TokenDigest
    csrf: str


class PageSessions:
    """Makes cookies, and reads them."""

    def __init__(self, key: bytes) -> None:
        """`key` is secret, and has KEY_BYTES bytes."""
        self._key = key

    def cookie(self, token: TokenDigest, wall: float, nonce: str) -> tuple[str, float]:
        """Return a new cookie and its end in Unix time; `nonce` is random, and hexadecimal digits."""
        end = wall + SESSION_S
        if token.expires_ts is not None:
            end = min(end, token.expires_ts)
        name = base64.urlsafe_b64encode(token.name.encode()).decode().rstrip("=")
        text = f"v1.{name}.{int(end)}.{nonce}"
        return f"{text}.{self._mac(text, token)}", float(int(end))

    def read(self, cookie: str, tokens: TokenTable, wall: float) -> OpenSession | None:
        """Return the session of a cookie, None if it does not count, or no longer."""
        if len(cookie) > MAX_COOKIE_CHARACTERS or not cookie.isascii():
            return None
        text, _, mac = cookie.rpartition(".")
        match text.split("."):
            case ["v1", name, end, _] if end.isdecimal() and wall < int(end):
                token = tokens.named(_decoded(name), wall)
            case _:
                return None
        if token is None or not hmac.compare_digest(mac, self._mac(text, token)):
            return None
        return OpenSession(token, self.csrf_of(cookie))

    def csrf_of(self, cookie: str) -> str:
        """Return what a change by way of this session has to repeat."""
        return hmac.new(self._key, b"csrf\0" + cookie.encode(), hashlib.sha256).hexdigest()

    def _mac(self, text: str, token: TokenDigest) -> str:
        return hmac.new(self._key, f"session\0{text}\0{token.digest}".encode(), hashlib.sha256).hexdigest()


def _decoded(name: str) -> str:
    try:
        return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
