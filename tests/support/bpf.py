"""Runs classic BPF programs (socket(7), SO_ATTACH_FILTER), as far as Synjitsu's go."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.filter import RANDOM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_synjitsu.rules.filter import Instruction

_SIZES = {0x20: 4, 0x28: 2, 0x30: 1, 0x48: 2, 0x50: 1, 0xB1: 1}


def taken_by(code: Sequence[Instruction], frame: bytes) -> int:
    """Run a program on a frame; returns how many bytes of it are taken."""
    at, a, x = 0, 0, 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x06:
            return k
        if (op, k) == (0x20, RANDOM):
            a = random.getrandbits(32)
        elif op in _SIZES:
            offset = k + x if op in (0x48, 0x50) else k
            if offset + _SIZES[op] > len(frame):
                return 0
            loaded = int.from_bytes(frame[offset : offset + _SIZES[op]], "big")
            if op == 0xB1:
                x = 4 * (loaded & 0xF)
            else:
                a = loaded
        elif op == 0x05:
            at += k
        else:
            at += yes if {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: a & k}[op] else no
