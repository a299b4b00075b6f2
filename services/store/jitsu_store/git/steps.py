"""Long work in pieces, so that a process can answer others in between.

A function that works in pieces is a generator: it yields after each piece, and returns its result. Another such
function calls it with `yield from`; a caller that has the time uses `at_once`; with `in_pieces` (wires/turns.py) the
event loop has its turn after each piece.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

PIECE = 500
"""Paths that are looked at in one piece: a millisecond's work."""
PIECE_VMS = 20
"""VMs that are built in one piece: the same."""


def at_once(steps: Steps[T]) -> T:
    """Do all pieces one after the other, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
