"""Long work in steps, so that a process can answer others in between.

A function that works in steps is a generator: it yields after each step, and returns its result. Another such function
calls it with `yield from`. A caller that has the time uses `at_once`. With `in_steps` (wires/turns.py) the event loop
has its turn after each step.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

PIECE = 500
"""Paths for one step: a millisecond of work."""
PIECE_VMS = 20
"""VMs that are built in one step: the same."""


def at_once(steps: Steps[T]) -> T:
    """Do all steps one after the other, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
