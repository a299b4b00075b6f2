"""Tokens of the HTTP API: what one looks like, and what is kept of it.

A token has 256 random bits. Its SHA-256 can therefore be kept and sent without a salt or a slow hash: nobody can guess
what it was made from. Nothing but the hash is kept, in a file of the store's own: the state tree is Git, whose history
cannot be erased and is pushed elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Literal

from jitsu_protocol.model.errors import BadRequest

TokenRole = Literal["viewer", "operator"]

PREFIX = "jitsu_"
"""Lets programs that search for leaked secrets recognise a token."""
RANDOM_BYTES = 32
MAX_TOKENS = 1000
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
"""A token's name stands in commits, logs and traces as the name of who uses it."""
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
_TOKEN = re.compile(r"jitsu_[A-Za-z0-9_-]{43}", re.ASCII)


def token_of(random: bytes) -> str:
    """Return the token made from RANDOM_BYTES random bytes."""
    return PREFIX + base64.urlsafe_b64encode(random).decode().rstrip("=")


def digest_of(token: str) -> str:
    """Return what is kept of a token; "" for a text that cannot be one."""
    return hashlib.sha256(token.encode()).hexdigest() if _TOKEN.fullmatch(token) else ""


def check_token_name(name: str) -> str:
    """Return the name of a token; raises BadRequest."""
    if not re.fullmatch(NAME_PATTERN, name, re.ASCII):
        raise BadRequest(
            f"{name[:100]!r} cannot be the name of a token", hint="letters, digits and . _ @ -, at most 64"
        )
    return name
