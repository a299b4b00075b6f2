"""JITSU_BENCH_BRIEF=1: each benchmark in a few seconds, to see that it works. Its figures mean nothing then."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def sized(whole: T, brief: T) -> T:
    """Return what a benchmark's size is to be."""
    return brief if os.environ.get("JITSU_BENCH_BRIEF") else whole
