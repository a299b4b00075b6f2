"""How much work a call is, counted instead of timed: the same on every machine, whatever else runs there."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def instructions(call: Callable[[], object]) -> int:
    """Return how many instructions of Python's bytecode a call takes, in all that it calls."""
    count = 0

    def each(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return each

    def called(frame: FrameType, _: str, __: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return each

    before = sys.gettrace()
    gc.disable()  # others' callbacks would be counted
    sys.settrace(called)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def bytes_kept(call: Callable[[], object]) -> int:
    """Return how much more memory is in use after a call than before it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before
