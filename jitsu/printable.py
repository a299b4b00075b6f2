"""Text that came from somewhere else, as a terminal may be sent it.

Names of VMs, values, authors and messages of commits may hold characters that move the cursor, ring the bell or hide
what stands before them. They are printed as escapes: a carriage return as \\r, an escape as \\x1b.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable


def printable(text: str) -> str:
    """Return a text on one line, with an escape for each character that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode() if character.isascii() else f"\\u{ord(character):04x}"


def print_lines(lines: Iterable[str], out: TextIO | None = None) -> None:
    """Print lines for people; each stays one line."""
    text = "\n".join(map(printable, lines))
    if text:
        print(text, file=out or sys.stdout)


def print_value(value: str) -> None:
    """Print a value: exactly as it is for a program, without what a terminal would act on for people."""
    if sys.stdout.isatty():
        value = "\n".join(map(printable, value.split("\n")))
    print(value)
