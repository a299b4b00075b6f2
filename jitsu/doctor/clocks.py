"""Clocks: idle times, statistics and the history are kept in wall-clock time."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding, note
from jitsu.durations import duration
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from jitsu.doctor.finding import Suite

TOPIC = "clock"
MAX_AHEAD_S = 60.0
"""A commit that is further in the future was made with another clock."""
EARLIEST = 1_704_067_200.0
"""2024: a machine whose battery is empty begins in 1970 or at the date of its firmware."""
STA_UNSYNC = 0x40
ERROR_STATE = 5
"""adjtimex(2)."""
STATUS_OFFSET_BYTES = 40
"""Of `status` in struct timex where a long has eight bytes."""


@dataclass(frozen=True)
class ClockFacts:
    """ClockFacts about this machine."""

    now: float
    is_synchronized: bool | None = None
    """Whether something keeps the clock right; None if the kernel does not tell."""
    last_commit_ts: float | None = None


def gather(suite: Suite) -> ClockFacts:
    """Read the clock, and ask the kernel whether it is kept right."""
    return ClockFacts(SYSTEM_CLOCK.wall(), _is_synchronized(), suite.last_commit_ts)


def _is_synchronized() -> bool | None:
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(256)  # modes = 0: only read
    state = ctypes.CDLL(None).adjtimex(timex)
    if state < 0:
        return None
    status = int.from_bytes(timex.raw[STATUS_OFFSET_BYTES : STATUS_OFFSET_BYTES + 4], "little")
    return state != ERROR_STATE and not status & STA_UNSYNC


def judge(facts: ClockFacts) -> list[Finding]:
    """Find a clock that is wrong, or that nobody keeps right."""
    found = []
    if facts.now < EARLIEST:
        when = time.strftime("%Y-%m-%d", time.gmtime(facts.now))
        found.append(Finding(TOPIC, f"the clock of this machine says {when}", "Set it, for example with chrony."))
    elif facts.last_commit_ts is not None and facts.last_commit_ts - facts.now > MAX_AHEAD_S:
        ahead = duration(facts.last_commit_ts - facts.now)
        what = f"the latest commit of the store is {ahead} in the future: a clock was, or is, wrong"
        found.append(Finding(TOPIC, what, "Set the clocks of this machine and of the store's."))
    if facts.is_synchronized is False:
        what = "nothing keeps the clock of this machine right"
        found.append(
            note(TOPIC, what, "Run chrony or systemd-timesyncd, above all where services are on several hosts.")
        )
    return found
