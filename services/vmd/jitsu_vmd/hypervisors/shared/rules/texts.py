"""Texts of servers, as they may be shown, and what is answered that is not what it should be."""

from __future__ import annotations

MAX_CHARACTERS = 500
"""Of a server's text in a message."""


def one_line(text: object) -> str:
    """Return a text of a server as it may be logged and shown: one line, and not longer than anybody reads."""
    words = " ".join(str(text or "")[: 4 * MAX_CHARACTERS].split())
    return "".join(each if each.isprintable() else "?" for each in words)[:MAX_CHARACTERS]
